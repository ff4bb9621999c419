"""The arrays beside a record: written whole, read as data, of the right kind and not too large.

A file is untrusted until it is checked: its size may be wrong, or an array missing.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.errors import RecordError
from bench.records.store import plain_name
from bench.storage import write_atomically

LARGEST_BYTES = 1 << 30
"""Uncompressed, all arrays of a file together; 10,000 images of 100 units take some megabytes."""

Arrays = Mapping[str, npt.NDArray[Any]]
_AGAIN = "Run it again with --fresh to measure anew."


def save_arrays(folder: Path, name: str, arrays: Arrays) -> Path:
    """Write `arrays` as the compressed file `name` (.npz) in `folder`; equal input, equal bytes.

    Raises:
        RecordError: an array holds Python objects, or `name` is not a plain file name.
        StorageError: the folder is read-only, full or gone.
    """
    for key, array in arrays.items():
        if array.dtype.hasobject:
            raise RecordError(f"Array '{key}' holds Python objects; only numbers are stored.")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # no array is an option
    target = folder / plain_name(name)
    write_atomically(target, buffer.getvalue())
    return target


def read_arrays(folder: Path, name: str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of file `name` in `folder`; nothing is ever unpickled.

    Raises:
        RecordError: the file is missing, damaged, not of this kind, lies elsewhere, or would take
            more than 1 GiB.
    """
    path = folder / plain_name(name)
    if path.exists() and not path.is_file():
        raise RecordError(f"The array file {path} is not a regular file.")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            file.seek(-22, io.SEEK_END)
            # Python does not compare: a damaged length can hide the members behind it.
            if int.from_bytes(file.read()[10:12], "little") != len(members):
                raise ValueError("its list of arrays is damaged")
            # Not more is read than a member says of itself.
            if sum(member.file_size for member in members) > LARGEST_BYTES:
                raise ValueError(f"it would take more than {LARGEST_BYTES >> 20} MiB")
            # Whole members: what is read in pieces may escape the comparison with their checksums.
            return {
                member.filename.removesuffix(".npy"): np.lib.format.read_array(
                    io.BytesIO(archive.read(member)), allow_pickle=False
                )
                for member in members
            }
    except FileNotFoundError:
        raise RecordError(f"The array file {path} is missing.", hint=_AGAIN) from None
    except Exception as error:  # damaged bytes make these readers fail in any way
        raise RecordError(f"The array file {path} cannot be read: {error}", hint=_AGAIN) from None


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
