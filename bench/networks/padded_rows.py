"""Images as rows with a border of zeros, and 3x3 convolutions at chosen rows only.

A position of an image is a row of its channels; the rows of n images of h x w positions, each with
a border one position wide, lie one after the other: (n (h+2) (w+2), C). The three horizontal
neighbours of a position are then 3 C adjacent numbers, so a 3x3 neighbourhood is three reads.
Owns the geometry and no state, no policy.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

# What is gathered at a time should stay in the cache of one core.
_GATHERED_NUMBERS = 1024 * 9 * 16


class Places(NamedTuple):
    """Some rows (M,), and where their neighbourhoods begin: three rows each, (3 M,)."""

    row_m: Tensor
    near_3m: Tensor

    def parts(self, channels: int) -> Iterator[Places]:
        """Yield the places in parts whose neighbourhoods of so many channels fit the cache."""
        most = max(1, _GATHERED_NUMBERS // (9 * channels))
        if len(self.row_m) <= most or self.row_m.device.type != "cpu":
            yield self
            return
        for row_m, near_3m in zip(
            torch.split(self.row_m, most), torch.split(self.near_3m, 3 * most), strict=True
        ):
            yield Places(row_m, near_3m)


class Grid:
    """The geometry of n images of h x w positions; R = n (h+2) (w+2) rows."""

    def __init__(self, count: int, height: int, width: int, device: torch.device) -> None:
        self.count, self.height, self.width = count, height, width
        self.num_positions = count * height * width
        self.num_rows = count * (height + 2) * (width + 2)
        self.row_width = width + 2
        self.inside_r1 = torch.zeros(self.num_rows, 1, device=device)
        self.inner(self.inside_r1).fill_(1)
        self.inside_r = self.inside_r1.view(-1) > 0
        above_left = -self.row_width - 1
        self._near_3 = torch.arange(3, device=device) * self.row_width + above_left
        self.everywhere = self.places(self.inside_r)

    def rows_of(self, x_nchw: Tensor) -> Tensor:
        """Return a copy of the images as rows (R, C)."""
        rows_rc = x_nchw.new_zeros(self.num_rows, x_nchw.shape[1])
        self.inner(rows_rc).copy_(x_nchw)
        return rows_rc

    def inner(self, rows_rc: Tensor) -> Tensor:
        """Return the images (n, C, h, w) in rows (R, C), without the border; a view."""
        shape = (self.count, self.height + 2, self.row_width, -1)
        return rows_rc.view(shape)[:, 1:-1, 1:-1].permute(0, 3, 1, 2)

    def images_of(self, rows_rc: Tensor) -> Tensor:
        """Return the images (n, C, h, w) in rows (R, C), a copy in the channels-last layout."""
        return self.inner(rows_rc).contiguous(memory_format=torch.channels_last)

    def by_image(self, rows_rc: Tensor) -> Tensor:
        """Return a view (n, R / n, C) of rows (R, C)."""
        return rows_rc.view(self.count, -1, rows_rc.shape[1])

    def places(self, mask_r: Tensor) -> Places:
        """Return the places set in a mask (R,) of bools; none is on the border."""
        row_m = mask_r.nonzero().view(-1)
        return Places(row_m, (row_m[:, None] + self._near_3).view(-1))


@functools.lru_cache(maxsize=32)
def grid_of(count: int, height: int, width: int, device: torch.device) -> Grid:
    """Return the grid; made once, because nothing in it depends on a network."""
    with torch.inference_mode(mode=False):
        return Grid(count, height, width, device)


class Dilation:
    """Grows a mask (R,) of bools by one position in all directions, within the images.

    The buffer, and the result in it, belong to this object: the next call overwrites them.
    """

    def __init__(self, grid: Grid) -> None:
        across = grid.row_width
        self._inside_r = grid.inside_r
        wide, grown = torch.zeros_like(grid.inside_r), torch.zeros_like(grid.inside_r)
        self._wide, self._wide_within = wide, wide[1:-1]
        self._above, self._below = wide[: -2 * across], wide[2 * across :]
        self._grown, self._grown_within = grown, grown[across:-across]

    def __call__(self, mask_r: Tensor) -> Tensor:
        torch.bitwise_or(mask_r[:-2], mask_r[2:], out=self._wide_within)
        self._wide.bitwise_or_(mask_r)
        torch.bitwise_or(self._above, self._below, out=self._grown_within)
        return self._grown.bitwise_or_(self._wide).bitwise_and_(self._inside_r)


def convolve_at(rows_rc: Tensor, conv: nn.Conv2d, near_3m: Tensor) -> Tensor:
    """Return the outputs (M, C_out) of a 3x3 convolution of stride 1 at M places.

    `rows_rc` is contiguous and its border is zero. The weights are read as they are: in the
    channels-last layout their matrix is a view, so there is nothing to prepare or to go stale.
    """
    count, channels = rows_rc.shape
    triples = rows_rc.as_strided((count - 2, 3 * channels), (channels, 1))
    patches = triples.index_select(0, near_3m).view(-1, 9 * channels)
    weight = conv.weight.permute(2, 3, 1, 0).flatten(0, 2)
    if conv.bias is None:
        return patches.mm(weight)
    if conv.out_channels == 1:
        return patches.mm(weight).add_(conv.bias)  # a matrix times a vector: no addmm
    return torch.addmm(conv.bias, patches, weight)
