"""Writing into the data folder: files appear whole or not at all, and failures say what to do.

Owns no file formats.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from bench import storage

_ELSEWHERE = (
    "Choose another folder with --data-dir or $BENCH_DATA. The data sets 'digits' and 'synthetic'"
    " need no data folder."
)


def storage_errors(folder: Path) -> AbstractContextManager[None]:
    """Turn the operating system's refusal to use `folder` into a StorageError."""
    return storage.storage_errors(folder, elsewhere=_ELSEWHERE)


def write_whole(target: Path, content: bytes) -> None:
    """Write a file of the data folder, which is made where it is missing."""
    with storage_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    storage.write_atomically(target, content, elsewhere=_ELSEWHERE)
