"""What a Ray worker does of a trial: watch its process, and tell Tune each epoch and the end.

Imports nothing heavy: a worker stays small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.engine.supervising import RunProcess, TrainingJob
from bench.sweep.options import Objective, point_of

# The keys of a trial's config, and of its reports.
METHOD, NUMBER, JOB = "method", "number", "job"
PERCENT, SCORE, SAID = "percent", "score", "said"
_PASSED_ON = frozenset({"started", "note", "epoch", "finished", "failed"})
_NOT_SHARED = "this machine does not see the results folder, which must be a shared one"


@dataclass(frozen=True, slots=True)
class TrialJob:
    """The job of a trial, what judges it, and the file of the sweep's document: a machine that
    does not see it does not share the results folder."""

    job: TrainingJob
    objective: Objective
    document: str


def run_trial(config: Mapping[str, Any]) -> None:
    """Do one trial in this worker: report each epoch with its score, then the end."""
    from ray import tune

    trial: TrialJob = config[JOB]
    objective, total = trial.objective, trial.job.spec.budget.epochs
    said: list[tuple[str, Any]] = []
    done, score = 0, float("-inf")
    if not Path(trial.document).exists():
        said.append(("failed", {"reason": _NOT_SHARED}))
        tune.report({PERCENT: 100, SCORE: score, SAID: said})
        return
    with RunProcess(trial.job) as process:
        for message in process.do(trial.job):
            if message.kind in _PASSED_ON:
                said.append(tuple(message))
            if message.kind == "epoch":
                done += 1
                point = point_of(message.what["values"])
                # The last epoch is told with the end, so that no finished trial is stopped.
                if point is not None and done < total:
                    so_far = objective.score([point])
                    tune.report({PERCENT: 100 * done / total, SCORE: so_far, SAID: said})
                    said = []
            elif message.kind == "finished" and message.what:
                score = objective.score([(cost, accuracy) for cost, accuracy in message.what])
    tune.report({PERCENT: 100, SCORE: score, SAID: said})
