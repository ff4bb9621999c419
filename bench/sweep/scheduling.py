"""Trials on Ray Tune, once Ray is connected.

Tune places trials, asks the ledger what to try next and decides which to stop, by rules that see
each method by itself. A trial runs in a process of its own beside its Ray worker; what it finds
comes back to the driver, which alone writes what trials cannot. Only this module, ray_connection.py
and worker.py know Ray.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import schedulers
from ray.tune.search import Searcher

from bench.errors import ConfigError
from bench.sweep.ledger import Ledger, Progress
from bench.sweep.options import SweepOptions
from bench.sweep.worker import JOB, METHOD, NUMBER, PERCENT, SAID, SCORE, TrialJob, run_trial

# Trials are stopped after a ninth and after a third of their training: of three that got there,
# one goes on.
_KEEP_ONE_OF, _FIRST_RUNG = 3, 11
# A trial that raises has a record and is over; one whose process or machine died may try again.
_RESTARTS = 2
Node = Mapping[str, Any]
JobOf = Callable[[Progress, str], TrialJob]
"""The job of a trial on a device."""


def schedule(
    ledger: Ledger,
    trials: Iterator[Progress],
    options: SweepOptions,
    job_of: JobOf,
    *,
    scratch: Path,
) -> None:
    """Run `trials` of a ledger; returns when all have ended.

    Raises:
        ConfigError: no machine can take a trial.
        KeyboardInterrupt: the user interrupted; trials that ran keep their checkpoints.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    resources = resources_of_trial(options, nodes)
    device = options.device
    if device == "auto":
        device = "cuda" if resources["gpu"] else "cpu"
    config = tune.TuneConfig(
        search_alg=_Asking(ledger, trials, lambda progress: job_of(progress, device)),
        scheduler=stopping(options.scheduler),
        num_samples=ledger.total,
        reuse_actors=True,
        trial_dirname_creator=lambda trial: str(trial.trial_id),
    )
    run = tune.RunConfig(
        name="sweep",
        storage_path=str(scratch / "tune"),
        verbose=0,
        callbacks=[_Listening(ledger)],
        failure_config=tune.FailureConfig(max_failures=_RESTARTS),
    )
    trainable = tune.with_resources(run_trial, resources)
    # Tune's own tables stay off the terminal; what matters of them the ledger tells.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        tune.Tuner(trainable, tune_config=config, run_config=run).fit()


def stopping(name: str) -> schedulers.TrialScheduler | None:
    """Return Tune's scheduler for "asha" or "median"; None for "fifo", which stops no trial."""
    return None if name == "fifo" else _PerMethod(name)


class _PerMethod(schedulers.FIFOScheduler):
    """Methods learn at different speeds: a trial is judged among those of its own."""

    def __init__(self, name: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        measure: dict[str, Any] = {"time_attr": PERCENT, "metric": SCORE, "mode": "max"}

        def rule() -> Any:
            if name == "median":
                return schedulers.MedianStoppingRule(
                    **measure, grace_period=_FIRST_RUNG, min_samples_required=3
                )
            return schedulers.ASHAScheduler(
                **measure, max_t=100, grace_period=_FIRST_RUNG, reduction_factor=_KEEP_ONE_OF
            )

        self._rules: dict[str, Any] = defaultdict(rule)

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        self._rules[trial.config[METHOD]].on_trial_add(controller, trial)

    def on_trial_result(self, controller: Any, trial: Any, result: Any) -> Any:
        return self._rules[trial.config[METHOD]].on_trial_result(controller, trial, result)

    def on_trial_complete(self, controller: Any, trial: Any, result: Any) -> None:
        self._rules[trial.config[METHOD]].on_trial_complete(controller, trial, result)

    def on_trial_remove(self, controller: Any, trial: Any) -> None:
        self._rules[trial.config[METHOD]].on_trial_remove(controller, trial)


class _NotKept:
    """Tune pickles what it is given, to restore an experiment; ours is continued from records."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return (object, ())


class _Asking(_NotKept, Searcher):
    """Proposes the trials of the ledger. What they reach, the ledger tells their search."""

    def __init__(
        self, ledger: Ledger, trials: Iterator[Progress], job_of: Callable[[Progress], TrialJob]
    ) -> None:
        super().__init__()
        self._ledger, self._trials, self._job_of = ledger, trials, job_of

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        progress = next(self._trials, None)
        if progress is None:
            return Searcher.FINISHED
        number = self._ledger.progress.index(progress)
        return {METHOD: progress.tried.method, NUMBER: number, JOB: self._job_of(progress)}

    def on_trial_complete(self, *_: Any, **__: Any) -> None:
        pass

    save = restore = on_trial_complete


class _Listening(_NotKept, tune.Callback):
    """Passes on to the ledger what Tune and the trials say."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        self._ledger.begin(self._progress(trial))

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any
    ) -> None:
        for kind, what in result[SAID]:
            self._ledger.hear(self._progress(trial), kind, what)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        progress = self._progress(trial)
        if progress.state == "running":
            done = f"epoch {len(progress.history)} of {progress.epochs}"
            self._ledger.settle(progress, "stopped", f"stopped early by the scheduler at {done}")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        progress = self._progress(trial)
        if progress.state == "running":
            reason = f"its worker or machine died {_RESTARTS + 1} times: memory used up?"
            self._ledger.settle(progress, "failed", reason)

    def _progress(self, trial: Any) -> Progress:
        number: int = trial.config[NUMBER]
        return self._ledger.progress[number]


def resources_of_trial(options: SweepOptions, nodes: Sequence[Node]) -> dict[str, float]:
    """Return what a trial takes, a GPU where there are some and the user did not say.

    Raises:
        ConfigError: no machine has as much.
    """
    gpus = options.gpus_per_trial
    if gpus is None:
        found = options.device == "auto" and any(node["Resources"].get("GPU") for node in nodes)
        gpus = 1.0 if found or options.device.startswith("cuda") else 0.0
    needed = {"cpu": float(options.threads), "gpu": gpus}
    if not any(_is_able(node, needed) for node in nodes):
        machines = "; ".join(
            f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs"
            for has in (node["Resources"] for node in nodes)
        )
        raise ConfigError(
            f"No machine can take a trial of {needed['cpu']:g} CPUs and {gpus:g} GPUs.",
            hint=f"There are: {machines}. See --threads and --gpus-per-trial.",
        )
    return needed


def _is_able(node: Node, needed: Mapping[str, float]) -> bool:
    return all(node["Resources"].get(kind.upper(), 0) >= n for kind, n in needed.items())
