"""Writing into the results folder: whole files or none, and refusals that say what to do.

Owns the mapping from the operating system's errors to StorageError, temporary files and what a
killed process leaves of them, and the names of files set aside; knows no file format.
"""

from __future__ import annotations

import errno
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from bench.errors import StorageError

try:
    import fcntl
except ImportError:  # not on every system; then there are no locks
    fcntl = None  # type: ignore[assignment]

_ELSEWHERE = "Choose another folder with --results-dir or $BENCH_RESULTS."
_FREE = "Free some space and run again."
_REASONS: dict[int, tuple[str, str]] = {
    errno.EACCES: ("permission denied", ""),
    errno.EPERM: ("permission denied", ""),
    errno.EROFS: ("the file system is read-only", ""),
    errno.ENOSPC: ("the disk is full", _FREE),
    errno.EDQUOT: ("the disk quota is used up", _FREE),
    errno.ENOTDIR: ("a file stands where a folder should be", ""),
    errno.EEXIST: ("a file stands where a folder should be", ""),
    errno.ENOENT: ("it does not exist", "Was the folder removed while the command ran?"),
}


@contextmanager
def storage_errors(path: Path, *, elsewhere: str = _ELSEWHERE) -> Iterator[None]:
    """Turn the operating system's refusal to use `path` into a StorageError with a way out.

    `elsewhere` says how to choose another folder.
    """
    try:
        yield
    except OSError as error:
        reason, way_out = _REASONS.get(error.errno or 0, (error.strerror or str(error), ""))
        hint = f"{way_out} {elsewhere}".strip()
        raise StorageError(f"Cannot use {path}: {reason}.", hint=hint) from error


@contextmanager
def chosen_with_out(out: Path | None) -> Iterator[None]:
    """Let a refusal to write what a user named with --out, if it is given, speak of --out."""
    try:
        yield
    except StorageError as error:
        if out is None:
            raise
        hint = (error.hint or "").replace(_ELSEWHERE, "Choose another place with --out.")
        raise StorageError(error.message, hint=hint) from error


def make_folder(path: Path) -> Path:
    """Create the folder `path` and its parents where missing; return it.

    Raises:
        StorageError: it cannot be created.
    """
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_atomically(path: Path, content: bytes, *, elsewhere: str = _ELSEWHERE) -> None:
    """Replace `path` by `content` so that every reader sees the old file or the new one, whole.

    Of two writers the last wins. What killed writers left of this file is removed. The folder must
    exist.

    Raises:
        StorageError: the folder is read-only, full or gone; an old file is left as it was.
    """
    with storage_errors(path, elsewhere=elsewhere):
        _replace(path, content)
        _sync_folder(path.parent)
    remove_leftovers(path.parent, name=path.name)


def remove_leftovers(folder: Path, *, name: str = "*") -> list[Path]:
    """Delete the temporary files of killed processes in `folder`, of one file or of all.

    A living writer holds a lock on its temporary file, so that it is left alone. Where the system
    knows no locks nothing is deleted.
    """
    removed: list[Path] = []
    pattern = name if name == "*" else glob.escape(name)
    for path in sorted(folder.glob(f".{pattern}.{'[0-9a-f]' * 12}.tmp")):
        # Gone already, or of another user: neither is in anybody's way.
        with suppress(OSError), path.open("rb") as file:
            if try_lock(file.fileno()) == "held":
                path.unlink()
                removed.append(path)
    return removed


def temporary_beside(path: Path) -> Path:
    """Return a name for a temporary file that `remove_leftovers` knows as one of `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def is_ours(handle: int) -> bool:
    """Lock a temporary file just created; False if one who removes leftovers was quicker."""
    return try_lock(handle) != "taken" and os.fstat(handle).st_nlink > 0


def try_lock(handle: int) -> Literal["held", "taken", "unknown"]:
    """Lock an open file for this process without waiting; the kernel frees it with the process.

    "taken": another one has it. "unknown": the system or the file system knows no locks.
    """
    if fcntl is None:
        return "unknown"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "taken"
    except OSError:
        return "unknown"
    return "held"


def set_aside(path: Path) -> Path | None:
    """Rename a damaged file to `<name>.broken-<number>`; None if it is gone already.

    Raises:
        StorageError: the folder is read-only.
    """
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.broken-{number}")):
        number += 1
    with storage_errors(path):
        try:
            path.rename(aside)
        except FileNotFoundError:
            return None
    return aside


def _replace(path: Path, content: bytes) -> None:
    while True:
        temporary = temporary_beside(path)
        try:
            # "x" and not mkstemp: it gets the permissions that the user's umask gives a new file.
            with temporary.open("xb") as file:
                if not is_ours(file.fileno()):
                    continue
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                if fcntl is None:
                    file.close()  # a system without these locks renames no open file
                os.replace(temporary, path)
                return
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # Some file systems cannot sync a folder; the rename is done all the same.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
