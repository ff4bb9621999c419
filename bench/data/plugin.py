"""What a data set of your own fulfils: one class; its images lie in memory or are read later.

Owns the contract and the two ways to make a `Dataset`; plugins are found as methods are.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from bench.data.images import (
    FINGERPRINT_LENGTH,
    Augment,
    Constants,
    Dataset,
    Images,
    ImageSet,
    canonical_order,
    described,
    fingerprint,
    spread_over,
)
from bench.data.streaming import ImageSource, Streamed, Views, pixels_of
from bench.errors import DataError
from bench.registry import Registry

_KINDS = [(4, kind, torch.int64) for kind in (torch.uint8, torch.float32)]


class DatasetPlugin(ABC):
    """A data set by name."""

    name: ClassVar[str]
    title: ClassVar[str]

    @property
    def code(self) -> str:
        """What changes when the plugin's code does."""
        return PLUGINS.code(self.name)

    @abstractmethod
    def load(self, data_dir: Path, *, workers: int, room_bytes: int) -> Dataset:
        """Return it, by `in_memory` or `streamed`; `data_dir` is the user's folder for data.

        `workers` is how many processes may read images, `room_bytes` how much memory they may take.
        """


PLUGINS: Registry[DatasetPlugin] = Registry(DatasetPlugin, kind="data set", group="bench.datasets")


def in_memory(
    plugin: DatasetPlugin,
    *,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    class_names: Sequence[str],
    pad: int = 0,
    flip: bool = False,
    augment: Augment | None = None,
    constants: Constants | None = None,
    difficulty_n: Tensor | None = None,
) -> Dataset:
    """Return a data set of tensors: images (N, H, W, C) uint8 or float32, labels (N,) int64.

    Without `pad`, `flip` and `augment` training sees the tensors as they are, whatever they mean.
    `constants` are (mean, std) per channel, by default those of the training images.

    Raises:
        DataError: shapes, types or labels do not fit.
    """
    for images, labels in (train, test):
        if (images.ndim, images.dtype, labels.dtype) not in _KINDS or len(images) != len(labels):
            raise DataError(
                f"The data set '{plugin.name}': images must be (N, H, W, C) uint8 or float32, and"
                f" labels (N,) int64; these are {tuple(images.shape)} {images.dtype} and"
                f" {tuple(labels.shape)} {labels.dtype}."
            )
    splits = [ImageSet(images.contiguous(), labels) for images, labels in (train, test)]
    _check(plugin, splits, class_names)
    orders = [canonical_order(split) for split in splits]
    held, tested = (split.take(order) for split, order in zip(splits, orders, strict=True))
    identity = fingerprint(held, tested)
    return described(
        held,
        tested,
        name=plugin.name,
        title=plugin.title,
        class_names=class_names,
        pad=pad,
        flip=flip,
        constants=constants,
        identity=identity if augment is None else _hashed(identity, plugin.code),
        difficulty_n=None if difficulty_n is None else difficulty_n[orders[1]],
        augment=augment,
    )


def streamed(
    plugin: DatasetPlugin,
    *,
    train: ImageSource,
    test: ImageSource,
    labels: tuple[Sequence[int], Sequence[int]],
    views: Views,
    class_names: Sequence[str],
    constants: Constants,
    workers: int,
) -> Dataset:
    """Return a data set whose images are read when they are needed, and go through `views`.

    `labels` are those of the training and test images, in the order of the sources. Which data set
    it is, is told by all labels, some test images and the plugin's code.

    Raises:
        DataError: labels do not fit, or an image cannot be used.
    """
    height, width, _ = pixels_of(views.evaluation(test[0][0])).shape
    splits = [
        Streamed(
            source, views, torch.tensor(given), torch.arange(len(source)), (height, width), workers
        )
        for source, given in zip((train, test), labels, strict=True)
    ]
    _check(plugin, splits, class_names)
    looked_at = splits[1].take(spread_over(len(test))).held("cpu")
    return described(
        *splits,
        name=plugin.name,
        title=plugin.title,
        class_names=class_names,
        constants=constants,
        identity=_hashed(fingerprint(looked_at, looked_at), repr(labels), plugin.code),
        remark=f"{plugin.title}: {len(train) + len(test):,} images are read while they are used, at"
        f" {height} x {width} pixels; worker processes: {workers}",
    )


def _hashed(*parts: str) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:FINGERPRINT_LENGTH]


def _check(plugin: DatasetPlugin, splits: Sequence[Images], class_names: Sequence[str]) -> None:
    classes = len(class_names)
    for split, images in zip(("training", "test"), splits, strict=True):
        found = images.labels_n
        if min(len(found), classes) < 2:
            raise DataError(
                f"The data set '{plugin.name}' has {len(found)} {split} images of {classes}"
                " classes; at least 2 of each are needed."
            )
        low, high = int(found.min()), int(found.max())
        if not 0 <= low <= high < classes:
            raise DataError(
                f"The {split} labels of '{plugin.name}' go from {low} to {high}, but it names"
                f" {classes} classes."
            )
