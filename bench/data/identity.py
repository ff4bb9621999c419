"""What is known of a data set by its pixels: fingerprint, canonical order, channel statistics.

The same images give the same tensors and the same fingerprint whether they came from an archive
or from a folder in any order. So image n is the same image on every machine, and per-image results
can be compared. Owns no files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.data.images import Augment, Constants, Dataset, DatasetInfo, Images, ImageSet

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
        std_c = values_nc.std(0, correction=0).clamp(min=1e-4)
        return _to_four(values_nc.mean(0)), _to_four(std_c)
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


def _to_four(values_c: Tensor) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values_c.tolist())
