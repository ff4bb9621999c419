"""What a reader needs of every record, kept beside the records so that few are read again.

    <results>/.cache/<name>.json   a line with a checksum, then {run: [signature, digest]}

The records are the truth and the index never is: an entry counts only while the file it was made
from has the same signature, and only for the code that made it. An index that is absent, damaged or
cannot be written costs time and nothing else. Processes do not wait for each other: each writes
what it saw, whole, and the last one wins. Damaged records never enter. Owns no digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bench.errors import RecordError, StorageError
from bench.records.record import SCHEMA_VERSION, RunRecord
from bench.records.store import RECORD_FILE, Problem, RunStore
from bench.storage import make_folder, write_atomically

FOLDER = ".cache"
FEWEST = 200
"""Fewer records than this are read in a moment: no index is written for them."""

_SETTLED_S = 2.0
"""A file changed more recently might change once more and keep its signature."""

_ROOM = ("document", "index", "record", "store")
_READERS = ("bench.config", "bench.recipes", *(f"bench.records.{m}" for m in _ROOM))

T = TypeVar("T")
Signature = list[int]
Entries = Mapping[str, tuple[Signature, Any]]


class Digests(NamedTuple):
    """The digests of all readable records by run, sorted by name, and all unreadable records."""

    of: dict[str, Any]
    problems: list[Problem]


def digests(store: RunStore, digest: Callable[[RunRecord], Any], *, name: str) -> Digests:
    """Return `digest` of every record in `store`; only what has changed is read.

    `name` is that of the index. `digest` returns what JSON gives back as it was (no tuples), and
    depends on nothing but the record, the module that it is defined in, and those of bench that
    this imports classes and functions from.
    """
    path = store.results_dir / FOLDER / f"{name}.json"
    stamp = _stamp(digest)
    known = {} if stamp is None else _read(path, stamp)
    now_ns = time.time_ns()
    kept: dict[str, tuple[Signature, Any]] = {}
    found = Digests({}, [])
    for run in store.names():
        signature = _signature(store.runs_dir / run / RECORD_FILE)
        before, value = known.get(run, (None, None))
        if signature is None or before != signature:
            try:
                value = digest(store.load(run))
            except RecordError as error:
                found.problems.append(Problem(run, error.message))
                continue
        found.of[run] = value
        if signature is not None and max(signature[:2]) < now_ns - _SETTLED_S * 1e9:
            kept[run] = (signature, value)
    differ = {run: entry[0] for run, entry in kept.items()} != {r: e[0] for r, e in known.items()}
    if stamp is not None and len(kept) >= FEWEST and differ:
        _write(path, stamp, kept)
    return found


def _signature(path: Path) -> Signature | None:
    """Return what changes whenever the file does: times of content and of entry, size, number."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino]


def _stamp(digest: Callable[[RunRecord], Any]) -> str | None:
    """Return the checksum of the code that digests depend on; None where it cannot be read."""
    home = digest.__module__
    code = hashlib.sha256(f"{SCHEMA_VERSION} {digest.__qualname__}".encode())
    try:
        imported = {getattr(one, "__module__", "") for one in vars(sys.modules[home]).values()}
        used = sorted(str(name) for name in imported if str(name).startswith("bench."))
        for module in (*_READERS, home, *used):
            code.update(Path(str(sys.modules[module].__file__)).read_bytes())
    except (OSError, KeyError):
        return None
    return code.hexdigest()


def _read(path: Path, stamp: str) -> Entries:
    """Return the entries of an index made by the same code; none if anything is wrong with it."""
    try:
        checksum, _, body = path.read_bytes().partition(b"\n")
        if checksum != _checksum(stamp, body):
            return {}
        return {str(run): (entry[0], entry[1]) for run, entry in json.loads(body).items()}
    except (OSError, ValueError, RecursionError):
        return {}


def _write(path: Path, stamp: str, entries: Entries) -> None:
    body = json.dumps(entries, separators=(",", ":")).encode()
    with suppress(StorageError):
        make_folder(path.parent)
        write_atomically(path, _checksum(stamp, body) + b"\n" + body)


def _checksum(stamp: str, body: bytes) -> bytes:
    return hashlib.sha256(stamp.encode() + body).hexdigest().encode()
