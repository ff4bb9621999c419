"""Runs on disk: one folder per run under <results>/runs, found again by the hash of its spec.

    <results>/runs/<run>/record.json   the truth about the run
                         *.npz         arrays that the record names
                         weights.safetensors     all of the network, to rebuild it
                         trunk.safetensors       the ResNet alone, to start another run from
                         inference.safetensors   what has to be shipped
                         masks.png               what its decisions look like
                         checkpoint.bin          only while the run is not finished

Owns where things lie and that a damaged record never counts; owns no schema (record.py) and no
encoding (document.py).
"""

from __future__ import annotations

import difflib
import io
import os
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.config import RunSpec
from bench.errors import RecordError
from bench.records.document import decode, encode
from bench.records.record import RunRecord, Status
from bench.storage import make_folder, storage_errors, write_atomically

RECORD_FILE = "record.json"
WEIGHTS_FILE = "weights.safetensors"
TRUNK_FILE = "trunk.safetensors"
INFERENCE_FILE = "inference.safetensors"
MASKS_FIGURE = "masks.png"


class Problem(NamedTuple):
    """A record that is not counted, and why."""

    name: str
    reason: str


class Inventory(NamedTuple):
    """All readable records, sorted by name, and all unreadable ones."""

    records: list[RunRecord]
    problems: list[Problem]


class RunStore:
    """The runs of one results folder. Nothing is created before the first write."""

    def __init__(self, results_dir: Path) -> None:
        self.results_dir = Path(results_dir).absolute()
        self.runs_dir = self.results_dir / "runs"

    def folder(self, spec: RunSpec) -> Path:
        """Create and return the folder of `spec`; a damaged record in it is set aside.

        Raises:
            StorageError: the results folder is read-only, full or gone.
        """
        folder = make_folder(self._folder_named(spec.run))
        _set_aside_if_broken(folder)
        return folder

    def folder_of(self, record: RunRecord) -> Path:
        """Return the folder of a record, whether it exists or not."""
        return self._folder_named(record.run)

    def find(self, spec: RunSpec, *, status: Status = "finished") -> RunRecord | None:
        """Return the record with the key of `spec` and this status, if there is one.

        A damaged record counts as none, so that the run is done again.

        Raises:
            StorageError: there is a record and the system refuses to read it.
        """
        folder = self._folder_named(spec.run)
        try:
            with storage_errors(folder):
                record = _read(folder)
        except RecordError:
            return None
        if record is None or record.status != status or record.spec.key != spec.key:
            return None
        return record

    def names(self) -> list[str]:
        """Return the names of all runs that have a record, readable or not."""
        if not self.runs_dir.is_dir():
            return []
        with storage_errors(self.runs_dir):
            folders = sorted(os.listdir(self.runs_dir))
        return [name for name in folders if self._has_record(name)]

    def load_all(self) -> Inventory:
        """Read every record; those that cannot be read are listed, never counted."""
        inventory = Inventory([], [])
        for name in self.names():
            try:
                inventory.records.append(self.load(name))
            except RecordError as error:
                inventory.problems.append(Problem(name, error.message))
        return inventory

    def get(self, name: str) -> RunRecord:
        """Return the run called `name`: its full name, or the beginning of its name or key.

        Raises:
            RecordError: no such run (the nearest names are given), several, or a damaged record.
        """
        match = self._resolve(name)
        try:
            return self.load(match)
        except RecordError as error:
            raise RecordError(
                f"The record of run '{match}' cannot be used: {error.message}.",
                hint="Run it again; the damaged file is kept beside the new one.",
            ) from None

    def save(self, record: RunRecord) -> Path:
        """Write `record` into its folder, whole or not at all; return the file.

        Raises:
            StorageError: the results folder is read-only, full or gone.
        """
        folder = make_folder(self._folder_named(record.run))
        _set_aside_if_broken(folder)
        write_atomically(folder / RECORD_FILE, encode(record))
        return folder / RECORD_FILE

    def update(self, record: RunRecord) -> Path:
        """Replace the record of a run that is on disk already, e.g. after a new latency.

        Raises:
            RecordError: the run has no readable record of the same spec.
            StorageError: the results folder is read-only, full or gone.
        """
        if self.get(record.run).spec.key != record.spec.key:
            raise RecordError(f"The record of run '{record.run}' belongs to another spec.")
        return self.save(record)

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
        return self.runs_dir / _plain(name)

    def _has_record(self, name: str) -> bool:
        # Joined as text: a Path for each of thousands of runs takes as long as asking for it.
        return os.path.lexists(f"{self.runs_dir}{os.sep}{name}{os.sep}{RECORD_FILE}")

    def _resolve(self, name: str) -> str:
        if _is_plain(name) and self._has_record(name):
            return name
        known = self.names()
        matches = [run for run in known if name and _starts(run, name)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise RecordError(f"'{name}' names {len(matches)} runs.", hint=_listing(matches))
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
        hint = f"Nearest: {_listing(near)}" if near else "See 'bench list runs'."
        raise RecordError(f"There is no run '{name}' in {self.runs_dir}.", hint=hint)


def save_arrays(folder: Path, name: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Path:
    """Write `arrays` as the compressed file `name` (.npz) in `folder`; equal input, equal bytes.

    Raises:
        RecordError: an array holds Python objects, or `name` is not a plain file name.
        StorageError: the folder is read-only, full or gone.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in arrays.items():
            if array.dtype.hasobject:
                raise RecordError(f"Array '{key}' holds Python objects; only numbers are stored.")
            # A ZipInfo has a fixed date; a bare name would store the time of day.
            with archive.open(_member(key), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    target = folder / _plain(name)
    write_atomically(target, buffer.getvalue())
    return target


def load_arrays(folder: Path, name: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of file `name` in `folder`; nothing is ever unpickled.

    Raises:
        RecordError: the file is missing, damaged or not of this kind, or lies elsewhere.
    """
    path = folder / _plain(name)
    try:
        with path.open("rb") as file:  # np.load leaves the file open when it refuses it
            return _arrays_in(np.load(file, allow_pickle=False))
    except FileNotFoundError:
        raise RecordError(f"The array file {path} is missing.", hint=_AGAIN) from None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise RecordError(f"The array file {path} cannot be read: {error}", hint=_AGAIN) from None


def _arrays_in(loaded: object) -> dict[str, np.ndarray[Any, Any]]:
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise ValueError("not an .npz file")
    with loaded:
        return {key: loaded[key] for key in loaded.files}


_AGAIN = "Run it again with --fresh to measure anew."


def _member(key: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(f"{key}.npy")
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _read(folder: Path) -> RunRecord | None:
    path = folder / RECORD_FILE
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise RecordError("a folder stands where the file should be") from None
    record = decode(data)
    if record.run != folder.name:
        raise RecordError(f"it is the record of another run, '{record.run}'")
    return record


def _set_aside_if_broken(folder: Path) -> None:
    with storage_errors(folder / RECORD_FILE):
        try:
            _read(folder)
        except RecordError:
            # Another process may have set it aside a moment ago.
            with suppress(FileNotFoundError):
                (folder / RECORD_FILE).rename(_free_name(folder))


def _free_name(folder: Path) -> Path:
    number = 1
    while os.path.lexists(folder / f"{RECORD_FILE}.broken-{number}"):
        number += 1
    return folder / f"{RECORD_FILE}.broken-{number}"


def _plain(name: str) -> str:
    """Return `name` if it stays inside a folder.

    Raises:
        RecordError: it has a path in it, or is empty.
    """
    if not _is_plain(name):
        raise RecordError(f"'{name}' is not a plain file name.", hint="The record is damaged.")
    return name


def _is_plain(name: str) -> bool:
    return bool(name) and name not in {".", ".."} and not set(name) & set("/\\\0:")


def _starts(run: str, beginning: str) -> bool:
    return run.startswith(beginning) or run.rpartition("-")[2].startswith(beginning)


def _listing(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
