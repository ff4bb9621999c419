"""Before a run is worked on: alone with its folder, leftovers gone, whatever is damaged set aside.

Owns the lock of a run and the check of the files that its record names. A file that is missing is
no damage: weights may be deleted to save space. As the store, all raise a StorageError.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.config import RunSpec
from bench.errors import RecordError
from bench.records.record import RunRecord
from bench.records.store import RECORD_FILE, WEIGHTS_FILE, RunStore
from bench.storage import locked, remove_leftovers, set_aside, storage_errors

Note = Callable[[str], None]
_WORK_LOCK = ".work.lock"


def sound_record(store: RunStore, spec: RunSpec) -> RunRecord | None:
    """Return the finished record of `spec` if it and all of its files are as they were written."""
    found = store.find(spec)
    return None if found is None or _damaged(store, found) else found


@contextmanager
def at_work(store: RunStore, spec: RunSpec, *, note: Note) -> Iterator[RunRecord | None]:
    """Be the only one that works on the run of `spec`; yield its finished record if there is one.

    `note` hears who is waited for, and what was damaged and is set aside, so that it is made again.
    """
    folder = store.folder(spec)
    with locked(folder / _WORK_LOCK, note=note):
        remove_leftovers(folder)
        yield _finished(store, spec, note=note)


def adopt_reference(store: RunStore, *, note: Note) -> list[str]:
    """Copy the reference runs with weights, in <results>/reference, that `store` lacks; return all.

    Without their latencies, which are of another machine.

    Raises:
        RecordError: there is none.
    """
    source = RunStore(store.results_dir / "reference")
    adopted: list[str] = []
    for record in source.load_all().records:
        weights = source.folder_of(record) / WEIGHTS_FILE
        if record.status != "finished" or not weights.is_file():
            continue
        adopted.append(record.run)
        if store.find(record.spec) is None:
            with at_work(store, record.spec, note=note) as found, storage_errors(store.runs_dir):
                if found is None:
                    for name in fingerprints(weights.parent, record.files):
                        shutil.copyfile(weights.with_name(name), store.folder(record.spec) / name)
                    points = [one.model_copy(update={"latency": ()}) for one in record.points]
                    store.save(record.model_copy(update={"points": tuple(points)}))
    if not adopted:
        raise RecordError(
            f"There are no reference runs with weights in {source.runs_dir}.",
            hint="A checkout of the project has them, in results/reference.",
        )
    return adopted


def forget(store: RunStore, spec: RunSpec, *, note: Note) -> None:
    """Delete all that is known of the run of `spec`, when no process works on it any more."""
    folder = store.folder(spec)
    with locked(folder / _WORK_LOCK, note=note), storage_errors(folder):
        # First, so that a kill in the middle leaves no record of files that are gone.
        (folder / RECORD_FILE).unlink(missing_ok=True)
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif not path.name.startswith("."):
                path.unlink(missing_ok=True)
        remove_leftovers(folder)


def fingerprints(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of those files that are there."""
    found: dict[str, str] = {}
    with storage_errors(folder):
        for name in names:
            if (folder / name).is_file():
                with (folder / name).open("rb") as file:
                    found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def checked_file(store: RunStore, record: RunRecord, name: str) -> Path:
    """Return a file of a run; one that its record does not name, or that is gone, unchecked.

    Raises:
        RecordError: its content is not what was written.
    """
    path = store.folder_of(record) / name
    if name in _damaged(store, record, [name]):
        raise RecordError(
            f"The file {path} was changed after it was written.",
            hint="'bench run' with the options of that run sets it aside and makes it again.",
        )
    return path


def _finished(store: RunStore, spec: RunSpec, *, note: Note) -> RunRecord | None:
    folder = store.folder(spec)
    aside = store.set_aside_broken(spec)
    if aside is not None:
        note(f"The record of {spec.run} is damaged: set aside as {aside.name}, made again.")
    found = store.find(spec)
    damaged = [] if found is None else _damaged(store, found)
    if not damaged:
        return found
    for name in (*damaged, RECORD_FILE):
        moved = set_aside(folder / name)
        if moved is not None and name != RECORD_FILE:
            note(f"{name} of {spec.run} is damaged: set aside as {moved.name}, made again.")
    return None


def _damaged(store: RunStore, record: RunRecord, names: Iterable[str] | None = None) -> list[str]:
    """Return those files, of all or of `names`, that are there and not as the record has them."""
    asked = record.files if names is None else [name for name in names if name in record.files]
    found = fingerprints(store.folder_of(record), asked)
    return [name for name, fingerprint in found.items() if fingerprint != record.files[name]]
