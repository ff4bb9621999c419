"""Trials on Ray Tune: on this machine, or on the cluster at an address.

Tune places trials, asks the ledger what to try next and decides which to stop, by rules that see
each method by itself and count recorded trials in. A trial runs in a process of its own beside its
Ray worker; what it finds comes back to the driver, which alone writes what trials cannot. Only this
module, ray_connection.py and worker.py know Ray.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import ConfigError
from bench.records.record import EpochRow
from bench.sweep.ledger import Ledger, Progress, RecordedTrial, State
from bench.sweep.options import SweepOptions
from bench.sweep.ray_connection import connected
from bench.sweep.worker import (
    FILES,
    JOB,
    METHOD,
    PERCENT,
    SCORE,
    TOLD,
    TrialJob,
    lacks,
    run_trial,
    store_files,
)

# Trials are stopped after a ninth and after a third of their training: of three that got there,
# one goes on.
_KEEP_ONE_OF, _FIRST_RUNG = 3, 11


def stopping(name: str, recalled: Callable[[], Sequence[RecordedTrial]]) -> Any:
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

    class PerMethod(schedulers.FIFOScheduler):
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

    return None if name == "fifo" else PerMethod()


class _PastTrial(NamedTuple):
    """What the rules look at of a trial of Tune's; it must be hashable."""

    trial_id: str


def _show(rule: Any, controller: Any, past: RecordedTrial) -> None:
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


# A trial that raises has a record and is over; one whose process or machine died may try again.
_RESTARTS = 2
_ROUNDING = 1e-6  # three times a third of a GPU is a GPU


def schedule(
    ledger: Ledger, options: SweepOptions, job_of: Callable[[Progress, str], TrialJob]
) -> None:
    """Run all trials of `ledger` that are not recorded; returns when all have ended.

    `job_of` gives the job of a trial on a device.

    Raises:
        ConfigError: Ray is missing, there is no cluster, or no machine of it can take a trial.
        KeyboardInterrupt: the user interrupted; trials that ran keep their checkpoints.
    """
    first = ledger.next_trial()
    if first is None:
        return
    with connected(options.address) as (ray, scratch):
        nodes = [node for node in ray.nodes() if node["Alive"]]
        resources = _resources(options, nodes)
        device = options.device
        if device == "auto":
            device = "cuda" if resources["gpu"] else "cpu"
        at_once = 1 if ledger.objective.runtime else _room(resources, nodes)
        bridge = _TuneBridge(ledger, first, lambda progress: job_of(progress, device))
        if options.address:
            _check_machines(ray, _able(resources, nodes), job_of(first, device).text())
        _fit(bridge, options, resources, at_once, scratch)


def _resources(options: SweepOptions, nodes: list[Mapping[str, Any]]) -> dict[str, float]:
    """Return what a trial takes, a GPU where there are some and the user did not say.

    Raises:
        ConfigError: no machine has as much.
    """
    resources = [node["Resources"] for node in nodes]
    gpus = options.gpus_per_trial
    if gpus is None:
        wanted = options.device.startswith("cuda")
        found = options.device == "auto" and any(has.get("GPU") for has in resources)
        gpus = 1.0 if wanted or found else 0.0
    needed = {"cpu": float(options.threads), "gpu": gpus}
    if not _able(needed, nodes):
        machines = "; ".join(
            f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs" for has in resources
        )
        raise ConfigError(
            f"No machine can take a trial of {needed['cpu']:g} CPUs and {gpus:g} GPUs.",
            hint=f"There are: {machines}. See --threads and --gpus-per-trial.",
        )
    return needed


def _able(
    needed: Mapping[str, float], nodes: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return the machines that can take a trial."""
    return [
        node
        for node in nodes
        if all(node["Resources"].get(k.upper(), 0) >= v for k, v in needed.items())
    ]


def _check_machines(ray: Any, nodes: Sequence[Mapping[str, Any]], job: str) -> None:
    """Check that all machines can read the data: one that fails at once would take most trials.

    Raises:
        ConfigError: some cannot.
    """
    from ray.exceptions import NodeDiedError, TaskUnschedulableError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0, max_calls=1)(lacks)
    answers = [
        ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(job)
        for node in nodes
    ]
    missing = list[str]()
    for node, answer in zip(nodes, answers, strict=True):
        # A machine that has gone since it was listed gets no trials.
        with suppress(NodeDiedError, TaskUnschedulableError):
            if (why := ray.get(answer)) is not None:
                missing.append(f"{node['NodeManagerHostname']}: {why}")
    if missing:
        raise ConfigError(
            "Not every machine of the cluster can read the data.\n" + "\n".join(missing),
            hint="Put the data at the same path on each (docs/cluster.md), or take these machines "
            "out. Trials that are done are kept; the same command continues.",
        )


def _room(needed: Mapping[str, float], nodes: Sequence[Mapping[str, Any]]) -> int:
    """Return how many trials there is room for now: also a quarter of a GPU is on one machine."""
    resources = [node["Resources"] for node in nodes]
    fits = [min(has.get(k.upper(), 0) / v for k, v in needed.items() if v) for has in resources]
    return sum(math.floor(fit + _ROUNDING) for fit in fits)


def _fit(
    bridge: _TuneBridge,
    options: SweepOptions,
    resources: dict[str, float],
    at_once: int,
    scratch: Path,
) -> None:
    from ray import tune

    config = tune.TuneConfig(
        search_alg=_searcher(bridge),
        scheduler=stopping(options.scheduler, lambda: bridge.ledger.recalled()),
        num_samples=bridge.ledger.total,
        # More would be asked for before there are scores, and wait with placement groups of their
        # own, which Ray keeps when it stops trials.
        max_concurrent_trials=at_once,
        reuse_actors=True,
        trial_dirname_creator=lambda trial: str(trial.trial_id),
    )
    run = tune.RunConfig(
        name="sweep",
        storage_path=str(scratch / "tune"),
        verbose=0,
        callbacks=[_callback(bridge)],
        failure_config=tune.FailureConfig(max_failures=_RESTARTS),
    )
    trainable = tune.with_resources(run_trial, resources)
    # Tune's own tables stay off the terminal; what matters of them the ledger tells.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        tune.Tuner(trainable, tune_config=config, run_config=run).fit()


class _TuneBridge:
    """Between Tune, which knows trials by ids, and the ledger."""

    def __init__(
        self, ledger: Ledger, first: Progress, job_of: Callable[[Progress], TrialJob]
    ) -> None:
        self.ledger, self._job_of = ledger, job_of
        self._first: Progress | None = first
        self._by_id: dict[str, Progress] = {}

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        # Tune pickles what it is given, to restore an experiment; ours is continued from records.
        return (object, ())

    def propose(self, trial_id: str) -> dict[str, Any] | None:
        progress, self._first = self._first or self.ledger.next_trial(), None
        if progress is None:
            return None
        self._by_id[trial_id] = progress
        return {METHOD: progress.tried.method, JOB: self._job_of(progress).text()}

    def started(self, trial_id: str) -> None:
        self.ledger.begin(self._by_id[trial_id])

    def result(self, trial_id: str, told: Mapping[str, Any]) -> None:
        progress = self._by_id[trial_id]
        progress.environment = told["environment"]
        for message in told["notes"]:
            self.ledger.note(progress, message)
        for row in told["rows"]:
            self.ledger.epoch(progress, EpochRow.model_validate(row))
        if told["end"] is not None:
            state, what = told["end"]
            if state == "finished":
                progress.points = [(nflops, accuracy) for nflops, accuracy in what]
            self.ledger.settle(progress, state, "" if state == "finished" else what)

    def over(self, trial_id: str, state: State) -> None:
        progress = self._by_id[trial_id]
        if progress.state == "running":
            done = f"epoch {len(progress.history)} of {progress.epochs}"
            reason = f"stopped early by the scheduler at {done}"
            if state == "failed":
                reason = f"its worker or machine died {_RESTARTS + 1} times: memory used up?"
            self.ledger.settle(progress, state, reason)


def _searcher(bridge: _TuneBridge) -> Any:
    from ray.tune.search import Searcher

    class Asking(Searcher):
        def set_search_properties(self, *_: Any, **__: Any) -> bool:
            return True

        def suggest(self, trial_id: str) -> Any:
            return bridge.propose(trial_id) or Searcher.FINISHED

        def on_trial_complete(self, *_: Any, **__: Any) -> None:
            pass

        # The records are what a sweep is continued from.
        save = restore = on_trial_complete

    return Asking()


def _callback(bridge: _TuneBridge) -> Any:
    import ray
    from ray import tune

    class Listening(tune.Callback):
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            bridge.started(trial.trial_id)

        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any
        ) -> None:
            if FILES in result:
                store_files(ray.get(result[FILES]), bridge.ledger.results_dir)
            bridge.result(trial.trial_id, json.loads(result[TOLD]))

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            bridge.over(trial.trial_id, "stopped")

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            bridge.over(trial.trial_id, "failed")

    return Listening()
