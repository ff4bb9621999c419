"""Where a trial's files lie: in the results folder, or, on a machine that does not see it, in a
folder of its own until the driver has taken them in.

Owns the sign by which a machine knows, and the taking in. Nothing heavy; no Ray.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from bench.engine.supervising import Job
from bench.errors import RecordError
from bench.storage import make_folder, write_atomically

Files = dict[str, bytes]


class TrialJob(NamedTuple):
    """The job of a trial, what judges it, and a file by which a machine knows that it sees the
    results folder."""

    job: Job
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
        return cls(Job(**job), *rest)


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


def put_away(files: Mapping[str, bytes], results_dir: Path) -> None:
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
