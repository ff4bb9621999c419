"""What a data set is in memory: image tensors, their description, a stratified hold-out.

Owns no files and no augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.errors import ConfigError
from bench.seeding import generator


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images and labels of one split, whole, on one device."""

    images_nhwc: Tensor  # (N, H, W, C) uint8, contiguous
    labels_n: Tensor  # (N,) int64

    def __post_init__(self) -> None:
        images, labels = self.images_nhwc, self.labels_n
        if images.ndim != 4 or images.dtype != torch.uint8 or not images.is_contiguous():
            raise ValueError(
                f"images must be contiguous (N, H, W, C) uint8, not {tuple(images.shape)}"
                f" {images.dtype}"
            )
        if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
            raise ValueError(
                f"labels must be ({len(images)},) int64, not {tuple(labels.shape)} {labels.dtype}"
            )

    def __len__(self) -> int:
        return len(self.labels_n)

    def to(self, device: torch.device | str) -> ImageSet:
        """Return the set on `device`; the same tensors where they are there already."""
        return ImageSet(self.images_nhwc.to(device), self.labels_n.to(device))

    def take(self, indices: Tensor) -> ImageSet:
        """Return the images at `indices`, in that order."""
        places = indices.to(self.labels_n.device)
        return ImageSet(self.images_nhwc[places], self.labels_n[places])


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What training, cost counting and reports need to know about a data set."""

    name: str
    title: str
    class_names: tuple[str, ...]
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]  # per channel, pixels in 0..1
    std: tuple[float, ...]
    pad: int  # pixels of zero padding for random crops in training
    flip: bool  # whether a mirrored image still has its label
    synthetic: bool
    fingerprint: str  # of all pixels and labels, whatever their order

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A data set: its description and its two splits."""

    info: DatasetInfo
    train: ImageSet
    test: ImageSet
    difficulty_n: Tensor | None = None  # (N test,) float32 in [0, 1]; known for generated images


def hold_out(train: ImageSet, count: int, *, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split `train` into (rest, held): `count` images held out, each class in proportion.

    The same images for the same seed; both parts keep the order of `train`.
    """
    if not 0 <= count < len(train):
        raise ConfigError(
            f"Cannot hold out {count} of {len(train)} training images.",
            hint=f"Give a number from 0 to {len(train) - 1}.",
        )
    labels_n = train.labels_n.cpu()
    quotas = _quotas(labels_n.bincount().tolist(), count)
    draws = generator(seed, "hold-out")
    held = torch.zeros(len(train), dtype=torch.bool)
    for label, quota in enumerate(quotas):
        members = (labels_n == label).nonzero().squeeze(1)
        held[members[torch.randperm(len(members), generator=draws)[:quota]]] = True
    return train.take((~held).nonzero().squeeze(1)), train.take(held.nonzero().squeeze(1))


def _quotas(sizes: list[int], count: int) -> list[int]:
    """Share `count` among classes of these sizes: exact shares rounded by largest remainder."""
    total = sum(sizes)
    quotas = [count * size // total for size in sizes]
    remainders = [count * size % total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda place: (-remainders[place], place))
    for place in by_remainder[: count - sum(quotas)]:
        quotas[place] += 1
    return quotas
