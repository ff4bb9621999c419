"""The scores of positions: a map from a 3x3 convolution, plus one number for the whole image.

Owns the modules, how they are evaluated at some places only, and the lean form they are shipped
in; who halts is positions.py.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bench.networks.halting_policy import ImageHalting
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
        if isinstance(self.whole, OfMean):
            # The border is zero, so it does not count in a sum.
            mean_nc = grid.by_image(rows_rc).sum(dim=1).div_(grid.height * grid.width)
            mean_nc = mean_nc if isinstance(index_m, slice) else mean_nc[index_m]
            z_m1: Tensor = self.whole.layers(mean_nc)
        else:
            z_m1 = self.whole(grid.images_of(rows_rc)[index_m])
        return z_m1

    def fold_norms(self) -> None:
        """Replace batch norms by the scale and shift they are in eval mode, and pool by a mean."""
        if isinstance(self.local, LocalScore):
            self.local.features = _folded(self.local.features)
        self.whole = _by_mean(self.whole)


def fold_scores(net: nn.Module) -> None:
    """Fold the norms of every score in a network, in place: for a copy that only infers.

    Afterwards the network has other weights by other names and must not be trained.
    """
    for module in net.modules():
        if isinstance(module, PositionScore):
            module.fold_norms()
        elif isinstance(module, ImageHalting):
            for name, score in module.scores.items():
                module.scores[name] = _by_mean(score)


class OfMean(nn.Module):
    """A number (N, 1) of the mean over positions (N, C) of a state (N, C, h, w)."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_folded(layer) for layer in layers))

    def forward(self, state_nchw: Tensor) -> Tensor:
        z_n1: Tensor = self.layers(state_nchw.mean(dim=(2, 3)))
        return z_n1


class ScaleAndShift(nn.Module):
    """What a batch norm is in eval mode, in one operation: x * scale + shift by channel."""

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None
        with torch.no_grad():
            scale_c = (norm.running_var + norm.eps).rsqrt()
            scale_c = scale_c * norm.weight if norm.affine else scale_c
            shift_c = -norm.running_mean * scale_c
            shift_c = shift_c + norm.bias if norm.affine else shift_c
        shape = (1, -1, 1, 1) if isinstance(norm, nn.BatchNorm2d) else (1, -1)
        self.register_buffer("scale", scale_c.view(shape).clone())
        self.register_buffer("shift", shift_c.view(shape).clone())

    scale: Tensor
    shift: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)


def _by_mean(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.Sequential):
        first, second, *rest = module
        pools = isinstance(first, nn.AdaptiveAvgPool2d) and first.output_size in (1, (1, 1))
        if pools and isinstance(second, nn.Flatten):
            return OfMean(rest)
    return module


def _folded(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.track_running_stats:
        return ScaleAndShift(module)
    if isinstance(module, nn.Sequential):
        return nn.Sequential(*(_folded(layer) for layer in module))
    return module
