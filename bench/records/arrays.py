"""The arrays beside a record, as readers need them: of the right kind and shape, and not too large.

A file is a stranger's until it is checked: it may lie about its size, or lack what it should hold.
Owns no place on disk; store.py opens the files.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from bench.errors import RecordError
from bench.records.store import load_arrays

LARGEST_BYTES = 1 << 30
"""Uncompressed, all arrays of a file together; 10,000 images of 100 units take some megabytes."""

Arrays = Mapping[str, npt.NDArray[Any]]


def read_arrays(folder: Path, name: str) -> Arrays:
    """Return the arrays of file `name` in `folder`, as `load_arrays` does.

    Raises:
        RecordError: also where the file is no regular one, or would take more than 1 GiB.
    """
    path = folder / name
    if path.exists() and not path.is_file():
        raise RecordError(f"The array file {path} is not a regular file.")
    if path.is_file() and _unpacked_bytes(path) > LARGEST_BYTES:
        raise RecordError(f"The array file {path} would take more than {LARGEST_BYTES >> 20} MiB.")
    return load_arrays(folder, name)


def numbers_in(arrays: Arrays, key: str, *, axes: int) -> npt.NDArray[Any]:
    """Return the numbers called `key`, of this many axes, all of them finite.

    Raises:
        RecordError: they are missing or of another kind.
    """
    found = arrays.get(key)
    if found is None or found.ndim != axes or found.dtype.kind not in "uif" or not found.size:
        raise RecordError(f"It holds no numbers called '{key}' with {axes} axes.")
    if not np.isfinite(found).all():
        raise RecordError(f"Its '{key}' are not all finite.")
    return found


def bits_in(arrays: Arrays, key: str, *, count: int) -> npt.NDArray[np.bool_]:
    """Return the first `count` bools called `key`, eight to a byte, the first in the highest bit.

    Raises:
        RecordError: they are missing, too few or of another kind.
    """
    found = arrays.get(key)
    if found is None or found.ndim != 1 or found.dtype != np.uint8 or 8 * len(found) < count:
        raise RecordError(f"It holds no {count} bits called '{key}'.")
    return np.unpackbits(found, count=count).astype(bool)


def _unpacked_bytes(path: Path) -> int:
    """Return what the arrays of a file say that they take; what is no archive takes its size."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(
                max(info.file_size, _array_bytes(archive, info)) for info in archive.filelist
            )
    except Exception:  # a damaged archive may raise anything; load_arrays says what is wrong
        return path.stat().st_size


def _array_bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Return the bytes that an array's own header asks for: they are allocated before reading."""
    with archive.open(info) as file:
        try:
            shape, dtype = _header(file)  # type: ignore[arg-type]
        except ValueError:
            return 0
    return dtype.itemsize * int(np.prod(shape, dtype=object))


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    shape, _, dtype = read[version](file)
    return shape, dtype
