"""Writing into the results folder: whole files or none, and refusals that say what to do.

Owns the mapping from the operating system's errors to StorageError; knows no file format.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.errors import StorageError

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


def make_folder(path: Path) -> Path:
    """Create the folder `path` and its parents where missing; return it.

    Raises:
        StorageError: it cannot be created.
    """
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content` so that every reader sees the old file or the new one, whole.

    Of two writers the last wins. The folder must exist.

    Raises:
        StorageError: the folder is read-only, full or gone; an old file is left as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    with storage_errors(path):
        try:
            _write_through(temporary, content)
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)


def _write_through(path: Path, content: bytes) -> None:
    # "x" and not mkstemp: the file gets the permissions that the user's umask gives any new file.
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # Some file systems cannot sync a folder; the rename is done all the same.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
