"""Where a trial's files lie: in the results folder, or, on a machine that does not see it, in a
folder of its own until the driver has taken them in.

Owns the sign by which a machine knows, and the taking in. Nothing heavy; no Ray.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.errors import RecordError
from bench.storage import make_folder, write_atomically
from bench.sweep.supervising import Job

Files = dict[str, bytes]


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
def place_of(job: Job) -> Iterator[Job]:
    """Yield the job as it is done here: in the results folder, or in a folder for now."""
    if Path(job.shared).exists():
        yield job
        return
    with tempfile.TemporaryDirectory(prefix="bench-trial-") as folder:
        yield replace(job, results_dir=folder)


def collect(placed: Job, job: Job) -> Files | None:
    """Return what a trial left in its own folder, by name; None where all lies in its place."""
    if placed.results_dir == job.results_dir:
        return None
    root = Path(placed.results_dir) / "runs"
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
