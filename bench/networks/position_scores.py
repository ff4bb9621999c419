"""The scores of positions: a map from a 3x3 convolution, plus one number for the whole image.

Owns the modules and how they are evaluated at some places only; who halts is positions.py.
"""

from __future__ import annotations

from torch import Tensor, nn

from bench.networks.padded_rows import Grid, Places, convolve_at


class LocalScore(nn.Module):
    """A 3x3 convolution to one channel, on `features` that act on each position alone."""

    def __init__(self, features: nn.Module, conv: nn.Conv2d) -> None:
        super().__init__()
        self.features = features
        self.conv = conv

    def forward(self, state_nchw: Tensor) -> Tensor:
        z_n1hw: Tensor = self.conv(self.features(state_nchw))
        return z_n1hw

    def write_at(self, places: Places, rows_rc: Tensor, grid: Grid, *, out_r1: Tensor) -> None:
        """Write what `forward` gives for the images in rows (R, C) at the places, and only there.

        Computes the convolution nowhere else; `features` run everywhere, which costs less than
        finding out where they are read.
        """
        as_image = rows_rc[None, :, None].permute(0, 3, 1, 2)
        features: Tensor = self.features(as_image)
        # The convolution is padded with zeros behind `features`, not before.
        features_rc = features.permute(0, 2, 3, 1).view(rows_rc.shape) * grid.inside_r1
        for part in places.parts(rows_rc.shape[1]):
            z_m1 = convolve_at(features_rc, self.conv, part.near_3m)
            out_r1.index_copy_(0, part.row_m, z_m1.to(out_r1.dtype))


class PositionScore(nn.Module):
    """z (N, 1, h, w) of a state (N, C, h, w): a map, plus one number (N, 1) for the whole image."""

    def __init__(self, local: LocalScore, whole: nn.Module) -> None:
        super().__init__()
        self.local: nn.Module = local
        self.whole: nn.Module = whole

    def forward(self, state_nchw: Tensor) -> Tensor:
        z_n1hw: Tensor = self.local(state_nchw) + self.whole(state_nchw)[:, :, None, None]
        return z_n1hw

    def whole_of(self, rows_rc: Tensor, grid: Grid, index_m: Tensor | slice) -> Tensor:
        """Return the numbers (M, 1) of some of the images in rows (R, C)."""
        z_m1: Tensor = self.whole(grid.images_of(rows_rc)[index_m])
        return z_m1
