"""Batches of a split: shuffle, random crop, flip, normalise, all on the tensors' device.

Owns no image files and no schedule; knows what an epoch is, not how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from bench.data.images import Augment, Images, ImageSet, Portion

_MADE_AT_ONCE = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some images, ready for a network."""

    x_nchw: Tensor  # (N, C, H, W) float32, channels_last strides
    labels_n: Tensor  # (N,) int64
    index_n: Tensor  # (N,) int64: positions in the ImageSet

    def __len__(self) -> int:
        return len(self.labels_n)


class Trainable(Protocol):
    """A split that can be trained on, whatever that does to its images."""

    def __len__(self) -> int: ...
    def epoch(self, *, batch_size: int, generator: torch.Generator) -> Iterator[Portion]:
        """Return one epoch; `generator` lives on the CPU and is used up before this returns."""


@dataclass(frozen=True, slots=True, eq=False)
class PaddedImages:
    """A training split with its zero border added once, so that an epoch only gathers."""

    images_nhwc: Tensor  # (N, H + 2 pad, W + 2 pad, C)
    labels_n: Tensor  # (N,) int64
    pad: int
    flip: bool
    augment: Augment | None = None
    origins: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels_n)

    def epoch(self, *, batch_size: int, generator: torch.Generator) -> Iterator[Portion]:
        """Return all images in random order, each cropped at random and mirrored half the time."""
        drawn = _draw(len(self), pad=self.pad, flip=self.flip, generator=generator)
        if self.augment is not None:
            generator = torch.Generator().manual_seed(drawn_seed(generator))
        device = self.labels_n.device
        columns = (whole_batches(part.to(device), batch_size=batch_size) for part in drawn)
        draws = [Draws(*parts) for parts in zip(*columns, strict=True)]
        if self.augment is not None and self.origins is not None:
            pixels = self._made(torch.cat([one.index_n for one in draws]), batch_size, generator)
        else:
            pixels = (self._cropped(one, generator) for one in draws)
        chosen = (one.index_n for one in draws)
        return (Portion(x, self.labels_n[n], n) for x, n in zip(pixels, chosen, strict=True))

    def _made(
        self, index_n: Tensor, batch_size: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Yield batches made of the origins, many at once: small tensors take as long as large."""
        assert self.augment is not None and self.origins is not None
        for some_n in torch.split(index_n, batch_size * max(1, _MADE_AT_ONCE // batch_size)):
            yield from torch.split(self.augment(self.origins[some_n], generator), batch_size)

    def _cropped(self, draws: Draws, generator: torch.Generator) -> Tensor:
        images_nhwc = crop_and_mirror(self, draws)
        return images_nhwc if self.augment is None else self.augment(images_nhwc, generator)


def drawn_seed(generator: torch.Generator) -> int:
    """Return a seed drawn from `generator`, for what draws on its own."""
    return int(torch.randint(2**62, (1,), generator=generator))


def pad_images(
    images: ImageSet, pad: int, *, flip: bool = False, augment: Augment | None = None
) -> PaddedImages:
    """Add `pad` black pixels on all four sides of every image."""
    bordered_nhwc = functional.pad(images.images_nhwc, (0, 0, pad, pad, pad, pad))
    return PaddedImages(bordered_nhwc, images.labels_n, pad, flip, augment, images.origins)


def normalise(images_nhwc: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn (N, H, W, C) uint8 into (N, C, H, W) float32, channels_last: (pixel/255 - mean) / std.

    Float32 is not divided by 255. One multiply and one add, over flat rows: on a CPU that is
    several times faster than broadcasting over three channels.
    """
    count, height, width, _ = images_nhwc.shape
    mean_c = torch.tensor(mean, dtype=torch.float64)
    std_c = torch.tensor(std, dtype=torch.float64)
    brightest = 255 if images_nhwc.dtype == torch.uint8 else 1
    scale_c, bias_c = 1 / (brightest * std_c), -mean_c / std_c
    x_nf = images_nhwc.reshape(count, -1).to(torch.float32, copy=True)
    x_nf.mul_(scale_c.to(x_nf).repeat(height * width)).add_(bias_c.to(x_nf).repeat(height * width))
    return x_nf.view(images_nhwc.shape).permute(0, 3, 1, 2)


def steps_per_epoch(count: int, *, batch_size: int) -> int:
    """Return how many batches `train_batches` gives for `count` images."""
    return count // batch_size or min(count, 1)


class Draws(NamedTuple):
    """All random choices of an epoch or a batch, one entry per image in the order of training."""

    index_n: Tensor
    top_n: Tensor
    left_n: Tensor
    mirrored_n: Tensor  # bool


def _draw(count: int, *, pad: int, flip: bool, generator: torch.Generator) -> Draws:
    # The same draws are made with and without flip, and all at once: one copy to the device, and
    # an image's crop does not depend on the batch size.
    index_n = torch.randperm(count, generator=generator)
    top_n, left_n = torch.randint(2 * pad + 1, (2, count), generator=generator).unbind()
    coins_n = torch.randint(2, (count,), generator=generator).bool()
    return Draws(index_n, top_n, left_n, coins_n if flip else torch.zeros_like(coins_n))


def whole_batches(order_n: Tensor, *, batch_size: int) -> list[Tensor]:
    """Return the batches of an epoch: what does not fill one is left out, unless it is all."""
    steps = steps_per_epoch(len(order_n), batch_size=batch_size)
    return list(torch.split(order_n, batch_size)[:steps])


def train_batches(
    images: Trainable,
    *,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    generator: torch.Generator,
) -> Iterator[Batch]:
    """Return one epoch in random order, augmented as the images are.

    The last images that do not fill a batch are left out, unless they are all there are.
    """
    portions = images.epoch(batch_size=batch_size, generator=generator)
    return (_batch(portion, mean, std) for portion in portions)


def _batch(portion: Portion, mean: Sequence[float], std: Sequence[float]) -> Batch:
    x_nchw = normalise(portion.images_nhwc, mean=mean, std=std)
    return Batch(x_nchw, portion.labels_n, portion.index_n)


def crop_and_mirror(padded: PaddedImages, draws: Draws) -> Tensor:
    """Cut a window of the original size out of each chosen image: (N, H, W, C) uint8.

    One gather over the pixels of the whole set; no copy of whole padded images is made.
    """
    index_n, top_n, left_n, mirrored_n = draws
    _, rows, columns, channels = padded.images_nhwc.shape
    height, width = rows - 2 * padded.pad, columns - 2 * padded.pad
    across = torch.arange(width, device=index_n.device)
    down = torch.arange(height, device=index_n.device)
    row_nh = index_n[:, None] * rows + top_n[:, None] + down
    column_nw = left_n[:, None] + torch.where(mirrored_n[:, None], across.flip(0), across)
    pixel_nhw = (row_nh * columns)[:, :, None] + column_nw[:, None, :]
    pixels = padded.images_nhwc.view(-1, channels).index_select(0, pixel_nhw.view(-1))
    return pixels.view(len(index_n), height, width, channels)


def eval_batches(
    images: Images,
    *,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    order_n: Tensor | None = None,
) -> Iterator[Batch]:
    """Yield all images untouched but for the normalisation, in order, or in the order (N,) given.

    `index_n` of a batch says in either case where its images lie in `images`.
    """
    order_n = torch.arange(len(images)) if order_n is None else order_n
    for portion in images.portions(order_n, batch_size=batch_size):
        yield _batch(portion, mean, std)
