"""Reading and writing files: whole or not at all, up to a size, and one process at a time.

Owns the mapping from the operating system's errors to StorageError, temporary files and what a
killed process leaves of them, the names of files set aside, and locks; knows no file format.
"""

from __future__ import annotations

import errno
import math
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.errors import StorageError

try:
    import fcntl
except ImportError:  # not on every system; then there are no locks
    fcntl = None  # type: ignore[assignment]

MIB = 1 << 20
_LEFTOVER_S = 3600
_LOOK_EVERY_S = 0.1


def read_limited(path: Path, *, limit_bytes: int) -> bytes:
    """Return the content of a regular file of at most `limit_bytes`; links are followed.

    Raises:
        OSError: it is missing, refused by the system, no regular file, or larger.
    """
    try:
        mode = path.stat().st_mode  # before it is opened: a pipe would wait for a writer
    except ValueError as error:  # a null character in the name
        raise FileNotFoundError(errno.ENOENT, str(error)) from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise OSError(errno.EINVAL, f"it is {what}")
    with path.open("rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {limit_bytes / MIB:,.0f} MiB")
    return data


def reason_of(error: OSError) -> str:
    """Return why a file cannot be read, in a few words."""
    return error.strerror or str(error) or type(error).__name__


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

    Of two writers the last wins. What killed writers left is removed. The folder must exist.

    Raises:
        StorageError: the folder is read-only, full or gone; an old file is left as it was.
    """
    with storage_errors(path, elsewhere=elsewhere):
        _replace(path, content)
        _sync_folder(path.parent)
    remove_leftovers(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of killed processes in `folder`: those older than an hour."""
    for path in folder.glob(f".*.{'[0-9a-f]' * 12}.tmp"):
        with suppress(OSError):  # gone already, or of another user: nothing to clean up
            if time.time() - path.stat().st_mtime > _LEFTOVER_S:
                path.unlink()


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
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        # "x" and not mkstemp: it gets the permissions that the user's umask gives a new file.
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
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


@contextmanager
def locked(
    path: Path, *, note: Callable[[str], None], patience_s: float = math.inf
) -> Iterator[None]:
    """Hold the lock file `path` in an existing folder; the kernel frees it with the process.

    `note` hears once that another one holds it, or that there are no locks here. Do not take the
    same lock again inside: even one's own is waited for.

    Raises:
        StorageError: the folder is read-only or gone, or the holder keeps it beyond `patience_s`.
    """
    with storage_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _wait_for(path, handle, note=note, patience_s=patience_s)
        yield
    finally:
        os.close(handle)


def _wait_for(path: Path, handle: int, *, note: Callable[[str], None], patience_s: float) -> None:
    since, told = time.monotonic(), False
    while True:
        try:
            if fcntl is None:
                raise OSError
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        except OSError:  # a system or a file system without locks
            note(f"No locks in {path.parent}: start nothing else that writes there.")
            return
        if not told:
            note(f"Another process is at work in {path.parent}; waiting for it.")
            told = True
        if time.monotonic() - since > patience_s:
            raise StorageError(
                f"Another process has held {path} for more than {patience_s:.0f} s.",
                hint="Run again when it is done, or end it.",
            )
        time.sleep(_LOOK_EVERY_S)
