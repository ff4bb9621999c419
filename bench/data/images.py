"""What a data set is: images in memory or out of it, their description, their fingerprint.

The same images give the same tensors and the same fingerprint whether they came from an archive
or from a folder in any order. So image n is the same image on every machine, and per-image results
can be compared. Owns no files and no augmentation; images that are read later are streaming.py's.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from bench.errors import ConfigError
from bench.seeding import generator

Constants = tuple[tuple[float, ...], tuple[float, ...]]
"""(mean, std) per channel, pixels in 0..1."""

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""What a data set does to training images (N, H, W, C), all draws from the generator."""


class Portion(NamedTuple):
    """Some images of a split, on the device."""

    images_nhwc: Tensor  # (N, H, W, C) uint8, or float32 where pixels are no bytes
    labels_n: Tensor  # (N,) int64
    index_n: Tensor  # (N,) int64: positions in the split


class Images(ABC):
    """One split: labels at hand, pixels wherever they are kept."""

    __slots__ = ()
    labels_n: Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels_n)

    @property
    @abstractmethod
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the images."""

    @property
    def pixels(self) -> int:
        """How many pixels an image has."""
        return self.size_hw[0] * self.size_hw[1]

    @property
    def held_bytes(self) -> int:
        """How much memory the images take."""
        return 0

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Return the split with its portions on `device`."""

    @abstractmethod
    def take(self, indices: Tensor) -> Self:
        """Return the images at `indices`, in that order."""

    @abstractmethod
    def portions(self, order_n: Tensor, *, batch_size: int) -> Iterator[Portion]:
        """Yield the images at `order_n` as evaluation sees them, in that order."""

    @abstractmethod
    def held(self, device: torch.device | str) -> ImageSet:
        """Return all images, as evaluation sees them, in the memory of `device`: for a few."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet(Images):
    """Images and labels of one split, whole, on one device.

    `origins` (N, ...) is what an augmentation is given in place of the images, if they are made.
    """

    images_nhwc: Tensor  # (N, H, W, C) uint8 or float32, contiguous
    labels_n: Tensor  # (N,) int64
    origins: Tensor | None = None

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.images_nhwc.shape[1], self.images_nhwc.shape[2]

    @property
    def held_bytes(self) -> int:
        return self.images_nhwc.nbytes

    def to(self, device: torch.device | str) -> ImageSet:
        """Return the set on `device`; the same tensors where they are there already."""
        origins = None if self.origins is None else self.origins.to(device)
        return ImageSet(self.images_nhwc.to(device), self.labels_n.to(device), origins)

    def take(self, indices: Tensor) -> ImageSet:
        places = indices.to(self.labels_n.device)
        origins = None if self.origins is None else self.origins[places]
        return ImageSet(self.images_nhwc[places], self.labels_n[places], origins)

    def portions(self, order_n: Tensor, *, batch_size: int) -> Iterator[Portion]:
        for index_n in torch.split(order_n.to(self.labels_n.device), batch_size):
            yield Portion(self.images_nhwc[index_n], self.labels_n[index_n], index_n)

    def held(self, device: torch.device | str) -> ImageSet:
        return self.to(device)


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
    train: Images
    test: Images
    difficulty_n: Tensor | None = None  # (N test,) float32 in [0, 1], where it is known
    augment: Augment | None = None  # of training images in memory, after crop and flip
    remark: str = ""  # what a user should know about how the images are read


Split = TypeVar("Split", bound=Images)


def hold_out(train: Split, count: int, *, seed: int) -> tuple[Split, Split]:
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


FINGERPRINT_LENGTH = 16


def described(
    train: Images,
    test: Images,
    *,
    name: str,
    title: str,
    class_names: Sequence[str],
    pad: int = 0,
    flip: bool = False,
    constants: Constants | None = None,
    identity: str = "",
    difficulty_n: Tensor | None = None,
    augment: Augment | None = None,
    remark: str = "",
) -> Dataset:
    """Return the data set of two splits; one whose difficulty is known is a synthetic one.

    `constants` and fingerprint (`identity`), where not given, are those of the images in memory.
    """
    mean, std = constants or channel_statistics(train.held("cpu"))
    info = DatasetInfo(
        name=name,
        title=title,
        class_names=tuple(class_names),
        channels=len(mean),
        height=train.size_hw[0],
        width=train.size_hw[1],
        mean=mean,
        std=std,
        pad=pad,
        flip=flip,
        synthetic=difficulty_n is not None,
        fingerprint=identity or fingerprint(train.held("cpu"), test.held("cpu")),
    )
    return Dataset(info, train, test, difficulty_n, augment, remark)


def in_canonical_order(images: ImageSet) -> ImageSet:
    """Return the images sorted by the digest of their content, which mixes the classes well."""
    return images.take(canonical_order(images))


def canonical_order(images: ImageSet) -> Tensor:
    """Return the order (N,) of `in_canonical_order`."""
    digests = _digests(images)
    return torch.tensor(sorted(range(len(digests)), key=digests.__getitem__), dtype=torch.int64)


def fingerprint(train: ImageSet, test: ImageSet) -> str:
    """Return a short hash of all pixels and labels that does not depend on their order."""
    total = hashlib.sha256()
    for split in (train, test):
        total.update(f"{tuple(split.images_nhwc.shape)}".encode())
        total.update(b"".join(sorted(_digests(split))))
    return total.hexdigest()[:FINGERPRINT_LENGTH]


def spread_over(count: int) -> Tensor:
    """Return the places of at most 64 of `count` images, from the first to the last."""
    return torch.linspace(0, count - 1, min(64, count)).long()


def _digests(images: ImageSet) -> list[bytes]:
    pixels = images.images_nhwc.cpu().flatten(1).numpy()
    labels = images.labels_n.tolist()
    return [
        hashlib.sha256(label.to_bytes(8, "little") + row.tobytes()).digest()
        for label, row in zip(labels, pixels, strict=True)
    ]


def channel_statistics(images: ImageSet) -> Constants:
    """Return (mean, std) per channel with pixels in 0..1, to four decimals.

    Four decimals, as papers print them, so that the numbers do not depend on summation order.
    """
    if images.images_nhwc.dtype != torch.uint8:
        values_nc = images.images_nhwc.cpu().double().flatten(0, 2)
        found = values_nc.mean(0), values_nc.std(0, correction=0).clamp(min=1e-4)
        mean_c, std_c = (tuple(round(v, 4) for v in values.tolist()) for values in found)
        return mean_c, std_c
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.images_nhwc.cpu().unbind(dim=3):
        # A histogram is exact, and needs no floating copy of the whole set.
        weights = torch.bincount(channel.flatten(), minlength=256).double()
        weights /= weights.sum()
        mean = (weights * values).sum()
        std = (weights * (values - mean) ** 2).sum().sqrt()
        means.append(round(mean.item(), 4))
        stds.append(round(max(std.item(), 1 / 255), 4))  # a constant channel must not divide by 0
    return tuple(means), tuple(stds)
