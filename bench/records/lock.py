"""One process at a time: a lock file that the kernel frees when its holder dies.

Owns waiting, and saying once who is waited for. Where the system knows no locks it says so and goes
on without one. What is locked, and why, is decided elsewhere.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.errors import StorageError
from bench.storage import storage_errors, try_lock

_LOOK_EVERY_S = 0.1


@contextmanager
def locked(
    path: Path, *, note: Callable[[str], None], patience_s: float = math.inf
) -> Iterator[None]:
    """Hold the lock file `path` in an existing folder; it is removed at the end.

    `note` hears once who holds it, while that one is waited for, or that there are no locks here.
    Do not take the same lock again inside: even one's own is waited for.

    Raises:
        StorageError: the folder is read-only or gone, or the holder keeps it beyond `patience_s`.
    """
    handle = _acquire(path, note=note, patience_s=patience_s)
    try:
        yield
    finally:
        if handle is not None:
            _release(path, handle)


def _acquire(path: Path, *, note: Callable[[str], None], patience_s: float) -> int | None:
    since, told = time.monotonic(), False
    while True:
        with storage_errors(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        answer = try_lock(handle)
        if answer == "held" and _is_there(path, handle):
            _sign(handle)
            return handle
        holder = _holder(handle)
        os.close(handle)
        if answer == "unknown":
            note(f"No locks in {path.parent}: start nothing else that writes there.")
            return None
        if answer == "held":
            continue  # of a file that its last holder removed
        if not told:
            note(f"{holder} is at work in {path.parent}; waiting for it.")
            told = True
        if time.monotonic() - since > patience_s:
            raise StorageError(
                f"{holder} has held {path} for more than {patience_s:.0f} s.",
                hint="Run again when it is done, or end it.",
            )
        time.sleep(_LOOK_EVERY_S)


def _release(path: Path, handle: int) -> None:
    # The folder may have been removed and made anew: another one's file is not ours to delete.
    with suppress(OSError):
        if _is_there(path, handle):
            path.unlink()
    os.close(handle)


def _is_there(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _sign(handle: int) -> None:
    # A full disk refuses the name; the lock holds all the same.
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps([platform.node(), os.getpid()]).encode(), 0)


def _holder(handle: int) -> str:
    try:
        host, process = json.loads(os.pread(handle, 1000, 0))
    except (OSError, ValueError, TypeError):
        return "Another process"
    return f"Process {process} on {host}"
