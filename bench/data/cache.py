"""The decoded copy of a data set: one safetensors file with its description and a checksum.

Owns the file's format, what happens to a damaged one, and how the data folder is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from bench import storage
from bench.data.images import Dataset, DatasetInfo, ImageSet

FILE_NAME = "decoded-v1.safetensors"  # another layout gets another number, so old files are left
_SPLITS = ("train", "test")
TENSORS = ("train_images", "train_labels", "test_images", "test_labels")
_ELSEWHERE = (
    "Choose another folder with --data-dir or $BENCH_DATA. The data sets 'digits' and"
    " 'graded_digits' need no data folder."
)


class DataWarning(UserWarning):
    """Something about the data on disk was not as it should be, and work goes on."""


def storage_errors(folder: Path) -> AbstractContextManager[None]:
    """Turn the operating system's refusal to use `folder` into a StorageError."""
    return storage.storage_errors(folder, elsewhere=_ELSEWHERE)


def write_whole(target: Path, content: bytes) -> None:
    """Write a file of the data folder, which is made where it is missing."""
    with storage_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    storage.write_atomically(target, content, elsewhere=_ELSEWHERE)


def save(dataset: Dataset, path: Path, *, source: str) -> None:
    """Write `dataset` to `path`; `source` tells later what the pixels were made from."""
    train, test = dataset.train.held("cpu"), dataset.test.held("cpu")
    held = (train.images_nhwc, train.labels_n, test.images_nhwc, test.labels_n)
    tensors = dict(zip(TENSORS, held, strict=True))
    info = json.dumps(dataclasses.asdict(dataset.info), sort_keys=True)
    checksum = _checksum(info, source, tensors)
    metadata = {"info": info, "source": source, "sha256": checksum}
    write_whole(path, save_tensors(tensors, metadata))


def load(path: Path, *, source: str) -> Dataset | None:
    """Return the data set in `path`, or None if the file is not there or of another source.

    A damaged file is renamed to `*.broken` with a warning, and None is returned.
    """
    with storage_errors(path.parent):
        if not path.exists():
            return None
        with path.open("rb"):  # a file that must not be read is no damaged file
            pass
    try:
        return _read(path, source=source)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        aside = path.with_name(path.name + ".broken")
        # A read-only folder or another process that was faster: the warning below is enough.
        with contextlib.suppress(OSError):
            os.replace(path, aside)
        warnings.warn(
            f"The decoded data in {path} is damaged ({error}); set aside as {aside.name}.",
            DataWarning,
            stacklevel=2,
        )
        return None


def _read(path: Path, *, source: str) -> Dataset | None:
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
        if metadata.get("source") != source:
            return None
        # Cloned, because a tensor mapped from the file would die with it.
        tensors = {name: file.get_tensor(name).clone() for name in TENSORS}
    info = metadata["info"]
    if _checksum(info, source, tensors) != metadata["sha256"]:
        raise ValueError("its checksum does not match")
    # JSON has lists where the description has tuples.
    told: dict[str, Any] = json.loads(info)
    told |= {key: tuple(value) for key, value in told.items() if isinstance(value, list)}
    train, test = (ImageSet(tensors[f"{s}_images"], tensors[f"{s}_labels"]) for s in _SPLITS)
    return Dataset(DatasetInfo(**told), train, test)


def _checksum(info: str, source: str, tensors: dict[str, Tensor]) -> str:
    total = hashlib.sha256(json.dumps([info, source]).encode())
    for name in TENSORS:
        tensor = tensors[name]
        total.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        total.update(tensor.numpy().data)
    return total.hexdigest()
