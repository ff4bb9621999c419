"""What a Ray worker does of a trial: watch its process, and tell Tune each epoch and the end.

On a machine that does not see the results folder a trial's files lie in a folder of their own until
the driver has taken them in. Imports nothing heavy: a worker stays small. The process of a trial
that finished does the worker's next one, so that torch is loaded once.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from bench.engine.supervising import RunProcess, TrainingJob
from bench.errors import RecordError
from bench.storage import make_folder, write_atomically
from bench.sweep.options import Objective

Files = dict[str, bytes]


class TrialJob(NamedTuple):
    """The job of a trial, what judges it, and a file by which a machine knows that it sees the
    results folder."""

    job: TrainingJob
    shared: str
    budget: float | None
    num_classes: int

    def text(self) -> str:
        """Return all of it as JSON."""
        return json.dumps(self._replace(job=asdict(self.job)))  # type: ignore[arg-type]

    @classmethod
    def of(cls, text: str) -> TrialJob:
        """Return what `text` gave."""
        job, *rest = json.loads(text)
        return cls(TrainingJob(**job), *rest)


@contextmanager
def sign(results_dir: Path) -> Iterator[Path]:
    """Leave a file in the results folder while a sweep runs; who sees it shares the folder."""
    path = make_folder(results_dir / "sweeps") / f".here-{secrets.token_hex(8)}"
    write_atomically(path, b"")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def place_of(trial: TrialJob) -> Iterator[TrialJob]:
    """Yield the trial as it is done here: in the results folder, or in a folder for now."""
    if Path(trial.shared).exists():
        yield trial
        return
    with tempfile.TemporaryDirectory(prefix="bench-trial-") as folder:
        yield trial._replace(job=replace(trial.job, results_dir=folder))


def collect(placed: TrialJob, trial: TrialJob) -> Files | None:
    """Return what a trial left in its own folder, by name; None where all lies in its place."""
    if placed.job.results_dir == trial.job.results_dir:
        return None
    root = Path(placed.job.results_dir) / "runs"
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def store_files(files: Mapping[str, bytes], results_dir: Path) -> None:
    """Write the files of runs that were done elsewhere; the record of each last.

    Raises:
        RecordError: a name leads elsewhere.
        StorageError: the results folder is read-only, full or gone.
    """
    for name in sorted(files, key=lambda name: name.endswith("record.json")):
        run, _, file = name.partition("/")
        if not file or "/" in file or ".." in (run, file):
            raise RecordError(f"A trial sent a file called '{name}', which is not taken.")
        write_atomically(make_folder(results_dir / "runs" / run) / file, files[name])


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
def _process_for(job: TrainingJob) -> Iterator[RunProcess]:
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
