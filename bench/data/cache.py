"""The decoded copy of a data set: one safetensors file with its description and a checksum.

Owns the file's format and what happens to a damaged one. Where the pixels come from is not its
business.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.data.images import Dataset, DatasetInfo, ImageSet
from bench.data.storage import storage_errors, write_whole

FILE_NAME = "decoded-v1.safetensors"  # another layout gets another number, so old files are left
TENSORS = ("train_images", "train_labels", "test_images", "test_labels")


class DataWarning(UserWarning):
    """Something about the data on disk was not as it should be, and work goes on."""


class BrokenCacheError(Exception):
    """A decoded file that cannot be trusted; the text says why. Never leaves this room."""


def save(dataset: Dataset, path: Path, *, source: str) -> None:
    """Write `dataset` to `path`; `source` tells later what the pixels were made from."""
    from safetensors import torch as safetensors

    train, test = dataset.train.held("cpu"), dataset.test.held("cpu")
    tensors = {
        "train_images": train.images_nhwc,
        "train_labels": train.labels_n,
        "test_images": test.images_nhwc,
        "test_labels": test.labels_n,
    }
    info = json.dumps(dataclasses.asdict(dataset.info), sort_keys=True)
    checksum = _checksum(info, source, tensors)
    metadata = {"info": info, "source": source, "sha256": checksum}
    write_whole(path, safetensors.save(tensors, metadata))


def load(path: Path, *, source: str) -> Dataset | None:
    """Return the data set in `path`, or None if the file is not there or of another source.

    A damaged file is renamed to `*.broken` with a warning, and None is returned.
    """
    try:
        return read(path, source=source)
    except BrokenCacheError as broken:
        aside = path.with_name(path.name + ".broken")
        # A read-only folder or another process that was faster: the warning below is enough.
        with contextlib.suppress(OSError):
            os.replace(path, aside)
        warnings.warn(
            f"The decoded data in {path} is damaged ({broken}); set aside as {aside.name}.",
            DataWarning,
            stacklevel=2,
        )
        return None


def read(path: Path, *, source: str) -> Dataset | None:
    """As `load`, but a damaged file raises BrokenCacheError and stays where it is."""
    from safetensors import SafetensorError, safe_open

    with storage_errors(path.parent):
        if not path.exists():
            return None
        with path.open("rb"):  # a file that must not be read is no damaged file
            pass
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            if metadata.get("source") != source:
                return None
            # Cloned, because a tensor mapped from the file would die with it.
            tensors = {name: file.get_tensor(name).clone() for name in TENSORS}
    except (SafetensorError, OSError, ValueError) as error:
        raise BrokenCacheError(str(error)) from error
    return _checked(metadata, tensors)


def _checked(metadata: dict[str, str], tensors: dict[str, Tensor]) -> Dataset:
    try:
        expected, info_text = metadata["sha256"], metadata["info"]
        if _checksum(info_text, metadata["source"], tensors) != expected:
            raise BrokenCacheError("its checksum does not match")
        return Dataset(
            _info(json.loads(info_text)),
            ImageSet(tensors["train_images"], tensors["train_labels"]),
            ImageSet(tensors["test_images"], tensors["test_labels"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenCacheError(f"its description is incomplete: {error}") from error


def _info(fields: dict[str, Any]) -> DatasetInfo:
    # JSON has lists where the description has tuples.
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
    }
    return DatasetInfo(**values)


def _checksum(info: str, source: str, tensors: dict[str, Tensor]) -> str:
    total = hashlib.sha256(json.dumps([info, source]).encode())
    for name in TENSORS:
        tensor = tensors[name]
        total.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        total.update(tensor.numpy().data)
    return total.hexdigest()
