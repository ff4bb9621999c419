"""Who stops trials early: Tune's rules, each method by itself, recorded trials counted in.

Owns which rules there are and what a sweep that continues shows them of what ran before; knows Ray.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.sweep.ledger import Past
from bench.sweep.worker import METHOD, PERCENT, SCORE

# Trials are stopped after a ninth and after a third of their training: of three that got there,
# one goes on.
_KEEP_ONE_OF, _FIRST_RUNG = 3, 11


def stopping(name: str, recalled: Callable[[], Sequence[Past]]) -> Any:
    """Return Tune's scheduler for "asha" or "median"; None for "fifo", which stops no trial.

    `recalled` gives the trials found on record since the last call. The rules see them as if they
    had just run, so that a sweep that continues judges its trials as one that was not interrupted.
    """
    from ray.tune import schedulers

    def rule() -> Any:
        measure: dict[str, Any] = {"time_attr": PERCENT, "metric": SCORE, "mode": "max"}
        if name == "median":
            return schedulers.MedianStoppingRule(
                **measure, grace_period=_FIRST_RUNG, min_samples_required=3
            )
        return schedulers.ASHAScheduler(
            **measure, max_t=100, grace_period=_FIRST_RUNG, reduction_factor=_KEEP_ONE_OF
        )

    class Among(schedulers.FIFOScheduler):
        """Methods learn at different speeds: a trial is judged among those of its own."""

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self._rules: dict[str, Any] = defaultdict(rule)

        def on_trial_add(self, controller: Any, trial: Any) -> None:
            for past in recalled():
                _show(self._rules[past.method], controller, past)
            self._rules[trial.config[METHOD]].on_trial_add(controller, trial)

        def on_trial_result(self, controller: Any, trial: Any, result: Any) -> Any:
            return self._rules[trial.config[METHOD]].on_trial_result(controller, trial, result)

        def on_trial_complete(self, controller: Any, trial: Any, result: Any) -> None:
            self._rules[trial.config[METHOD]].on_trial_complete(controller, trial, result)

        def on_trial_remove(self, controller: Any, trial: Any) -> None:
            self._rules[trial.config[METHOD]].on_trial_remove(controller, trial)

    return None if name == "fifo" else Among()


class _PastTrial:
    """What the rules look at of a trial of Tune's."""

    def __init__(self, name: str) -> None:
        self.trial_id = name


def _show(rule: Any, controller: Any, past: Past) -> None:
    """Tell `rule` each epoch of a recorded trial, and its end."""
    from ray.tune import schedulers

    results: list[Mapping[str, float]] = [{PERCENT: at, SCORE: score} for at, score in past.steps]
    if not results:
        return
    trial = _PastTrial(past.run)
    rule.on_trial_add(controller, trial)
    for result in results:
        # It may have gone on where this rule would have stopped it; then only its end is told.
        if rule.on_trial_result(controller, trial, result) == schedulers.TrialScheduler.STOP:
            break
    rule.on_trial_complete(controller, trial, results[-1])
