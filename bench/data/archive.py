"""Reading CIFAR's official archives: a gzipped tar of Python 2 pickles, without trusting either.

Nothing is extracted to disk, and the unpickler knows three numpy names and nothing else. Checking
the archive's md5 comes before this and is not done here.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data.images import ImageSet
from bench.errors import DataError
from bench.plain_text import one_line

_SIDE = 32
LARGEST_MEMBER_BYTES = 256 << 20  # the training images of CIFAR-100 take 148 MiB
LARGEST_ARCHIVE_BYTES = 1 << 30  # of all members, unpacked
_CHANNELS = 3


class _ArrayUnpickler(pickle.Unpickler):
    """Builds containers, numbers, text and numpy arrays; refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        # numpy 2 moved the module; the official files carry the old name.
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_members(archive: Path, names: Collection[str]) -> dict[str, bytes]:
    """Return the contents of the archive's regular files called `names`.

    Raises:
        DataError: it is damaged, lacks one of them, has one twice, or unpacks to more than the
            limits allow.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, mode="r|gz") as tar:
            for member in _within_limits(tar):
                # Links, pipes and devices are no regular files, whatever they are called.
                if member.name not in names or not member.isreg():
                    continue
                if member.name in found:
                    raise tarfile.ReadError(f"it has {member.name} twice")
                stream = tar.extractfile(member)
                found[member.name] = stream.read() if stream else b""
    # A damaged header may raise any of these.
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError) as error:
        raise DataError(f"Cannot read the archive {archive}: {one_line(str(error))}.") from error
    missing = sorted(set(names) - set(found))
    if missing:
        raise DataError(f"The archive {archive} has no {', '.join(missing)}.")
    return found


def _within_limits(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    total_bytes = 0
    for member in tar:
        total_bytes += member.size
        if not 0 <= member.size <= LARGEST_MEMBER_BYTES or total_bytes > LARGEST_ARCHIVE_BYTES:
            raise tarfile.ReadError(f"it unpacks to {total_bytes:,} bytes and more")
        yield member


def unpickle(content: bytes) -> Any:
    """Return the object in a pickle made of containers and arrays only."""
    try:
        # Python 2 wrote array bytes as text; latin1 maps them back one to one.
        return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle may raise anything at all
        raise DataError(
            f"A batch of the archive is not plain data: {one_line(str(error))}."
        ) from error


def read_split(
    members: Mapping[str, bytes], names: Sequence[str], *, labels_key: str, num_classes: int
) -> ImageSet:
    """Join the batches `names` into one split."""
    batches = [
        _batch(unpickle(members[name]), labels_key=labels_key, num_classes=num_classes)
        for name in names
    ]
    images_nhwc = np.concatenate([images for images, _ in batches])
    labels_n = np.concatenate([labels for _, labels in batches])
    return ImageSet(torch.from_numpy(images_nhwc), torch.from_numpy(labels_n))


def _batch(
    content: Any, *, labels_key: str, num_classes: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return (images (N, H, W, C) uint8, labels (N,) int64) of one unpickled batch."""
    fields = content if isinstance(content, dict) else {}
    rows, labels = fields.get("data"), fields.get(labels_key)
    row_length = _CHANNELS * _SIDE * _SIDE
    if (
        not isinstance(rows, np.ndarray)
        or rows.dtype != np.uint8
        or rows.shape[1:] != (row_length,)
        or not isinstance(labels, list)
        or len(labels) != len(rows)
        or not all(type(label) is int and 0 <= label < num_classes for label in labels)
    ):
        raise DataError(
            f"A batch of the archive does not hold rows of {row_length} bytes under 'data' and one"
            f" label per row, from 0 to {num_classes - 1}, under '{labels_key}'."
        )
    images_nchw = rows.reshape(-1, _CHANNELS, _SIDE, _SIDE)
    return np.ascontiguousarray(images_nchw.transpose(0, 2, 3, 1)), np.array(labels, dtype=np.int64)
