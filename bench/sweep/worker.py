"""What a Ray worker does of a trial: watch its process, and tell Tune each epoch and the end.

On a machine that does not see the results folder a trial's files lie in a folder of their own until
the driver has taken them in. Imports nothing heavy: a worker stays small.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.engine.supervising import RunProcess, TrainingJob
from bench.errors import RecordError
from bench.storage import make_folder, write_atomically
from bench.sweep.options import Objective

# The keys of a trial's config, and of its reports.
METHOD, NUMBER, JOB = "method", "number", "job"
PERCENT, SCORE, SAID, FILES = "percent", "score", "said", "files"
_PASSED_ON = frozenset({"started", "note", "epoch", "finished", "failed"})


@dataclass(frozen=True, slots=True)
class TrialJob:
    """The job of a trial, what judges it, and a file by which a machine knows that it sees the
    results folder."""

    job: TrainingJob
    objective: Objective
    shared: str


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
def place_of(trial: TrialJob) -> Iterator[TrainingJob]:
    """Yield the job as it is done here: in the results folder, or in a folder for now."""
    if Path(trial.shared).exists():
        yield trial.job
        return
    with tempfile.TemporaryDirectory(prefix="bench-trial-") as folder:
        yield replace(trial.job, results_dir=folder)


def collect(results_dir: Path) -> dict[str, bytes]:
    """Return the files of all runs in a results folder, by RUN/NAME; hidden ones are left out."""
    root = results_dir / "runs"
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


def run_trial(config: Mapping[str, Any]) -> None:
    """Do one trial in this worker: report each epoch with its score, then the end."""
    import ray
    from ray import tune

    trial: TrialJob = config[JOB]
    objective, total = trial.objective, int(trial.job.spec["budget"]["epochs"])
    said: list[tuple[str, Any]] = []
    done, score = 0, float("-inf")
    with place_of(trial) as job, RunProcess(job) as process:
        for message in process.do(job):
            if message.kind in _PASSED_ON:
                said.append(tuple(message))
            if message.kind == "epoch":
                done += 1
                # The last epoch is told with the end, so that no finished trial is stopped.
                step = objective.after_epoch(message.what["values"], done=done, epochs=total)
                if step is not None:
                    percent, so_far = step
                    tune.report({PERCENT: percent, SCORE: so_far, SAID: said})
                    said = []
            elif message.kind == "finished" and message.what:
                score = objective.score([(cost, accuracy) for cost, accuracy in message.what])
        report: dict[str, Any] = {PERCENT: 100, SCORE: score, SAID: said}
        if job is not trial.job:
            report[FILES] = ray.put(collect(Path(job.results_dir)))
    tune.report(report)
