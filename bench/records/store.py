"""Runs on disk: one folder per run under <results>/runs, found again by the hash of its spec.

    <results>/runs/<run>/record.json             the truth about the run
                         *.npz                   arrays that the record names
                         weights.safetensors     all of the network, to rebuild it
                         trunk.safetensors       the trunk alone, to start another run from
                         inference.safetensors   what has to be shipped
                         checkpoint.bin          only while the run is not finished

Owns where things lie and that a damaged record never counts; no schema and no encoding.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from bench.config import RunSpec
from bench.errors import RecordError
from bench.plain_text import some
from bench.records.document import LARGEST_BYTES, decode, encode
from bench.records.record import RunRecord, Status, leaves
from bench.storage import (
    locked,
    make_folder,
    read_limited,
    reason_of,
    remove_leftovers,
    set_aside,
    storage_errors,
    write_atomically,
)

RECORD_FILE = "record.json"
WEIGHTS_FILE = "weights.safetensors"
TRUNK_FILE = "trunk.safetensors"
INFERENCE_FILE = "inference.safetensors"
_EDIT_LOCK = ".record.lock"
_PATIENCE_S = 60.0
_LISTED = 8
_IN_THE_NAME = ("seed", "dataset.name", "backbone.name", "method")


class Problem(NamedTuple):
    """A record that is not counted, and why."""

    name: str
    reason: str


class Inventory(NamedTuple):
    """All readable records, sorted by name, and all unreadable ones."""

    records: list[RunRecord]
    problems: list[Problem]


class RunStore:
    """The runs of one results folder. Nothing is created before the first write.

    Every method raises a StorageError where the system refuses the folder: read-only, full, gone.
    """

    def __init__(self, results_dir: Path) -> None:
        self.results_dir = Path(results_dir).absolute()
        self.runs_dir = self.results_dir / "runs"

    def folder(self, spec: RunSpec) -> Path:
        """Create and return the folder of `spec`."""
        return make_folder(self._folder_named(spec.run))

    def folder_of(self, record: RunRecord) -> Path:
        """Return the folder of a record, whether it exists or not."""
        return self._folder_named(record.run)

    def find(self, spec: RunSpec, *, status: Status = "finished") -> RunRecord | None:
        """Return the record with the key of `spec` and this status, if there is one.

        A damaged record counts as none, so that the run is done again.
        """
        folder = self._folder_named(spec.run)
        try:
            with storage_errors(folder):
                record = _read(folder)
        except RecordError:
            return None
        fits = record and record.status == status and record.spec.key == spec.key
        return record if fits else None

    def names(self) -> list[str]:
        """Return the names of all runs that have a record, readable or not."""
        with storage_errors(self.runs_dir):
            try:
                folders = sorted(os.listdir(self.runs_dir))
            except FileNotFoundError:
                return []
        return [name for name in folders if self._has_record(name)]

    def read_each(self, problems: list[Problem]) -> Iterator[RunRecord]:
        """Yield every readable record, by name; the others are added to `problems`.

        One at a time: a record takes a tenth of a MiB of memory.
        """
        for name in self.names():
            try:
                yield self.load(name)
            except RecordError as error:
                problems.append(Problem(name, error.message))

    def load_all(self) -> Inventory:
        """Read every record; those that cannot be read are listed, never counted."""
        problems = list[Problem]()
        return Inventory(list(self.read_each(problems)), problems)

    def get(self, name: str) -> RunRecord:
        """Return the run called `name`: its full name, or the beginning of its name or key.

        Raises:
            RecordError: no such run (the nearest names are given), several, or a damaged record.
        """
        match, *others = matches = self.matching(name)
        if others:
            raise RecordError(f"'{name}' names {len(matches)} runs.", hint=some(matches))
        try:
            return self.load(match)
        except RecordError as error:
            said = f"The record of run '{match}' cannot be used: {error.message}."
            hint = "Run it again; the damaged file is kept beside the new one."
            raise RecordError(said, hint=hint) from None

    def matching(self, name: str) -> list[str]:
        """Return the names of the runs that `name` may mean; never an empty list.

        A full name means one run. Else it is the beginning of names or of keys; where it ends with
        a whole part of a name, those of longer parts are not meant: 'sgad' is no 'sgad_beta'.

        Raises:
            RecordError: no such run; the nearest names are given.
        """
        if _is_plain(name) and self._has_record(name):
            return [name]
        known = self.names()
        parts = {run: (run, run.rpartition("-")[2]) for run in known if name}
        matches = [run for run, ways in parts.items() if any(w.startswith(name) for w in ways)]
        if matches:
            return [run for run in matches if run.startswith(f"{name}-")] or matches
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
        hint = f"Nearest: {some(near)}" if near else "See 'bench list runs'."
        raise RecordError(f"There is no run '{name}' in {self.runs_dir}.", hint=hint)

    def save(self, record: RunRecord) -> Path:
        """Write `record` into its folder, whole or not at all; return the file.

        A damaged record in its place is set aside.
        """
        folder = make_folder(self._folder_named(record.run))
        with _edited(folder):
            _set_aside_if_broken(folder)
            write_atomically(folder / RECORD_FILE, encode(record))
        return folder / RECORD_FILE

    def amend(self, run: str, change: Callable[[RunRecord], RunRecord]) -> RunRecord:
        """Replace the record of a run by what `change` makes of it as it is now; return that.

        No other process changes it meanwhile: of two that add something at once both are kept.

        Raises:
            RecordError: the run has no readable record.
        """
        folder = self._folder_named(run)
        with _edited(folder):
            remove_leftovers(folder)
            after = change(self.load(run))
            write_atomically(folder / RECORD_FILE, encode(after))
        return after

    def set_aside_broken(self, spec: RunSpec) -> Path | None:
        """Set a damaged record of `spec` aside; return where it lies now, None if there is none."""
        folder = self.folder(spec)
        with _edited(folder):
            return _set_aside_if_broken(folder)

    def load(self, name: str) -> RunRecord:
        """Return the record in the folder `name`.

        Raises:
            RecordError: it is gone or damaged; the message is the reason in a few words.
        """
        folder = self._folder_named(name)
        try:
            record = _read(folder)
        except OSError as error:
            raise RecordError(error.strerror or str(error)) from None
        if record is None:
            raise RecordError("the file is gone")
        return record

    def _folder_named(self, name: str) -> Path:
        return self.runs_dir / plain_name(name)

    def _has_record(self, name: str) -> bool:
        # Joined as text: a Path for each of thousands of runs takes as long as asking for it.
        return os.path.lexists(f"{self.runs_dir}{os.sep}{name}{os.sep}{RECORD_FILE}")


def _read(folder: Path) -> RunRecord | None:
    path = folder / RECORD_FILE
    try:
        data = read_limited(path, limit_bytes=LARGEST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EFBIG, errno.EISDIR}:
            raise
        raise RecordError(reason_of(error)) from None
    record = decode(data)
    if record.run != folder.name:
        raise RecordError(f"it is the record of another run, '{record.run}'")
    return record


def _edited(folder: Path) -> AbstractContextManager[None]:
    """Let one process at a time change the record in `folder`; it takes moments."""
    return locked(folder / _EDIT_LOCK, note=lambda _: None, patience_s=_PATIENCE_S)


def _set_aside_if_broken(folder: Path) -> Path | None:
    with storage_errors(folder / RECORD_FILE):
        try:
            _read(folder)
        except RecordError:
            return set_aside(folder / RECORD_FILE)
    return None


def plain_name(name: str) -> str:
    """Return `name` if it stays inside a folder; else raise a RecordError."""
    if not _is_plain(name):
        raise RecordError(f"'{name}' is not a plain file name.", hint="The record is damaged.")
    return name


def _is_plain(name: str) -> bool:
    return bool(name) and name not in {".", ".."} and not set(name) & set("/\\\0:")


def finished_runs(store: RunStore, name: str) -> list[RunRecord]:
    """Return all finished runs that `name` names, sorted by name; never an empty list.

    Raises:
        RecordError: it names no run, or only runs that are damaged or not finished.
    """
    names = store.matching(name)
    # Of several, those that are damaged are passed over.
    known = store.load_all().records if len(names) > 1 else [store.get(names[0])]
    records = [record for record in known if record.run in set(names)]
    finished = [record for record in records if record.status == "finished"]
    if finished:
        return finished
    if len(names) > 1:
        said = f"None of the {len(names)} runs that '{name}' names is finished."
    else:
        failed = records[0].reason
        said = f"The run {names[0]} is not finished.{f' It failed: {failed}' if failed else ''}"
    raise RecordError(said, hint="Run it again, with bench run.")


def finished_run(store: RunStore, name: str) -> RunRecord:
    """Return the one finished run that `name` names.

    Raises:
        RecordError: as `finished_runs`, or it names several; they are listed with what differs.
    """
    found = finished_runs(store, name)
    if len(found) == 1:
        return found[0]
    lines = [f"  {line}" for line in _differences([record.spec for record in found])[:_LISTED]]
    if len(found) > _LISTED:
        lines.append(f"  and {len(found) - _LISTED} more")
    raise RecordError(
        f"'{name}' names {len(found)} finished runs, and one is needed:",
        hint="\n".join([*lines, "Give a full name, or the hash at its end."]),
    )


def _differences(specs: Sequence[RunSpec]) -> list[str]:
    """Return the names of runs, each with those of its settings that not all of them share."""
    flat = [leaves(spec.model_dump(mode="json")) for spec in specs]
    keys = dict.fromkeys(key for of in flat for key in of if key not in _IN_THE_NAME)
    differing = [key for key in keys if len({str(of.get(key)) for of in flat}) > 1]
    lines: list[str] = []
    for spec, of in zip(specs, flat, strict=True):
        known = [key for key in differing if of.get(key, {}) != {}]
        told = [f"{key.removeprefix('config.')}={of[key]}" for key in known]
        lines.append(f"{spec.run} ({', '.join(told)})" if told else spec.run)
    return lines
