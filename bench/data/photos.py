"""Data sets of PIL images: in memory where all have one size and fit there, else streamed.

Owns that choice, and the sizes and views of what is streamed; no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from bench.data.image_files import in_one_array
from bench.data.images import Dataset
from bench.data.normalising import IMAGENET
from bench.data.plugin import DatasetPlugin, in_memory, streamed
from bench.data.streaming import ImageSource, Views

SIDE = 224  # what networks for photos are made for; smaller images stay smaller
PAD_SHARE = 8  # crops in memory move by up to an eighth of the side, as is usual for CIFAR
_STEP = 8


class Sizes(NamedTuple):
    """What has to be known of the sizes of the images of a data set."""

    common_hw: tuple[int, int] | None  # that of all images, if they have one
    median_side: int  # of the shorter sides


def sizes_of(sizes_hw: Sequence[tuple[int, int]]) -> Sizes:
    """Return what has to be known of these sizes, (height, width) of each image."""
    common_hw = sizes_hw[0] if len(set(sizes_hw)) == 1 else None
    return Sizes(common_hw, int(np.median([min(size_hw) for size_hw in sizes_hw])))


def photos(
    plugin: DatasetPlugin,
    *,
    train: ImageSource,
    test: ImageSource,
    labels: tuple[Sequence[int], Sequence[int]],
    sizes: Sizes,
    class_names: Sequence[str],
    workers: int,
    room_bytes: int,
    flip: bool = True,
) -> Dataset:
    """Return the data set of two sources of PIL images of 8 bits per channel.

    In memory the images stay as they are, with one channel if all are grey; streamed ones are RGB.
    """
    size_hw, count = sizes.common_hw, len(train) + len(test)
    if size_hw is None or 3 * size_hw[0] * size_hw[1] * count > room_bytes:
        return streamed(
            plugin,
            train=train,
            test=test,
            labels=labels,
            views=_views(sizes, flip=flip),
            class_names=class_names,
            constants=IMAGENET,
            workers=workers,
        )
    title = f"Decoding {plugin.title}"
    found = [in_one_array(source, title=title) for source in (train, test)]
    channels = 1 if all(grey for _, grey in found) else 3
    held = [
        (images_nhwc[..., :channels], torch.tensor(given))
        for (images_nhwc, _), given in zip(found, labels, strict=True)
    ]
    return in_memory(
        plugin,
        train=held[0],
        test=held[1],
        class_names=class_names,
        pad=min(size_hw) // PAD_SHARE,
        flip=flip,
    )


def _views(sizes: Sizes, *, flip: bool) -> Views:
    """Return the usual views of photos: random crops and flips, or the middle of the image.

    Images of one size up to SIDE keep it; else it is a square of SIDE, or of the median shorter
    side where that is less.
    """
    from torchvision.transforms import v2

    size_hw = sizes.common_hw
    if size_hw is not None and max(size_hw) <= SIDE:
        middle = [v2.Identity()]
    else:
        side = min(SIDE, max(_STEP, sizes.median_side // _STEP * _STEP))
        size_hw = side, side
        middle = [v2.Resize(side * 8 // 7, antialias=True), v2.CenterCrop(side)]
    training = [v2.RandomResizedCrop(size_hw, antialias=True)]
    training += [v2.RandomHorizontalFlip()] if flip else []
    return Views(v2.Compose([v2.RGB(), *training]), v2.Compose([v2.RGB(), *middle]))
