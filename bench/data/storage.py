"""Writing into the data folder: files appear whole or not at all, and failures say what to do.

Owns no file formats.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench import storage

_ELSEWHERE = (
    "Choose another folder with --data-dir or $BENCH_DATA. The data sets 'digits' and 'synthetic'"
    " need no data folder."
)


def storage_errors(folder: Path) -> AbstractContextManager[None]:
    """Turn the operating system's refusal to use `folder` into a StorageError."""
    return storage.storage_errors(folder, elsewhere=_ELSEWHERE)


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` that replaces it if the block succeeds."""
    with storage_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary, handle = _new_file(target)
        try:
            yield temporary
            _allow_reading(temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(handle)
    storage.remove_leftovers(target.parent, name=target.name)


def _new_file(target: Path) -> tuple[Path, int]:
    """Return a new private file and a handle, whose lock says that its writer is alive."""
    while True:
        temporary = storage.temporary_beside(target)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        if storage.is_ours(handle):
            return temporary, handle
        os.close(handle)


def _allow_reading(path: Path) -> None:
    # The temporary file is private; a data folder is often shared, so give what open() would give.
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
