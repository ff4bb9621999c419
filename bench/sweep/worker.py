"""What a Ray worker does of a trial: watch its process, and tell Tune each epoch and the end.

Imports nothing heavy: a worker stays small. The process of a trial that finished does the worker's
next one, so that torch is loaded once and not for each; any other end of a trial is its end too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.engine.supervising import Job, RunProcess
from bench.sweep.objective import Objective
from bench.sweep.trial_files import TrialJob, collect, place_of

METHOD, JOB = "method", "job"
PERCENT, SCORE, TOLD, FILES = "percent", "score", "told", "files"
_idle: list[RunProcess] = []


def run_trial(config: Mapping[str, Any]) -> None:
    """Do one trial in this worker."""
    import ray
    from ray import tune

    trial = TrialJob.of(config[JOB])
    objective = Objective(trial.budget, trial.num_classes)
    total = int(trial.job.spec["budget"]["epochs"])
    with place_of(trial) as placed, _process_for(placed.job) as process:
        told = _nothing()
        done = 0
        for said in process.do(placed.job):
            if said.kind == "started":
                told["environment"] = said.what
            elif said.kind == "note":
                told["notes"].append(said.what)
            elif said.kind == "epoch":
                told["rows"].append(said.what)
                done += 1
                # The last epoch is told with the end, so that no finished trial is stopped.
                step = objective.after_epoch(said.what["values"], done=done, epochs=total)
                if step is not None:
                    percent, score = step
                    tune.report({PERCENT: percent, SCORE: score, TOLD: json.dumps(told)})
                    told = _nothing(told["environment"])
            elif said.kind == "finished":
                told["end"] = [said.kind, said.what]
            elif said.kind == "failed":
                told["end"] = [said.kind, said.what["reason"]]
        points = told["end"][1] if told["end"][0] == "finished" else []
        score = objective.score(points) if points else float("-inf")
        report: dict[str, Any] = {PERCENT: 100, SCORE: score, TOLD: json.dumps(told)}
        files = collect(placed, trial)
        if files is not None:
            report[FILES] = ray.put(files)
    tune.report(report)


def lacks(job: str) -> str | None:
    """Return why this machine cannot read what a trial needs, or None."""
    from bench.config import RunSpec
    from bench.data.load import load_dataset
    from bench.engine.building import check_same_data
    from bench.errors import BenchError
    from bench.plugins import load_plugin

    trial = TrialJob.of(job).job
    try:
        for file in map(Path, trial.plugins):
            load_plugin(file)
        dataset = load_dataset(trial.dataset, data_dir=Path(trial.data_dir), workers=trial.workers)
        check_same_data(RunSpec.model_validate(trial.spec), dataset)
    except BenchError as error:
        return error.message
    return None


@contextmanager
def _process_for(job: Job) -> Iterator[RunProcess]:
    """Give a process for `job`: that of the trial before, if it waits for another job. The jobs of
    a worker have the same threads and the same device."""
    process = _idle.pop() if _idle else RunProcess(job)
    if not process.waits:
        process.end()
        process = RunProcess(job)
    try:
        yield process
    finally:
        if process.waits:
            _idle.append(process)
        else:
            process.end()


def _nothing(environment: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"environment": environment or {}, "notes": [], "rows": [], "end": None}
