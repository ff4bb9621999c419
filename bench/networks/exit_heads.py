"""What classifies at an exit, from the state there: maps (N, C, H, W) or tokens (N, T, C).

Owns the heads that several methods use and what tells how one is made. Knows no rule and no trunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.networks.cifar_resnet import Head
from bench.networks.trunk import Shape, pool

HeadKind = Literal["pooled", "grid", "mixed", "convolution"]
HeadMaker = Callable[[int, Shape, int], nn.Module]
"""From the number of classes, the shape of the state and the exit, counted from 0, to its head."""
_GRID_SIDE = 4


class GridHead(nn.Module):
    """Means over a grid of at most 4x4 fields, or over at most 16 runs of tokens; and a linear
    classifier of all of them."""

    def __init__(self, num_classes: int, shape_chw: Shape) -> None:
        super().__init__()
        if len(shape_chw) == 3:
            width, *sides = shape_chw
            fields = [min(_GRID_SIDE, side) for side in sides]
        else:
            tokens, width = shape_chw
            fields = [1, min(_GRID_SIDE**2, tokens)]
        self.fields = (fields[0], fields[1])
        self.linear = nn.Linear(width * fields[0] * fields[1], num_classes)

    def forward(self, h: Tensor) -> Tensor:
        maps_nchw = h if h.ndim == 4 else h.transpose(1, 2)[:, :, None]
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(maps_nchw, self.fields).flatten(1))
        return logits


class ConvolutionalHead(nn.Module):
    """conv3x3, batch norm, ReLU; then pooling and a linear classifier as at the trunk's end."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.head = Head(num_classes, width)
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, h_nchw: Tensor) -> Tensor:
        logits: Tensor = self.head(F.relu(self.bn(self.conv(h_nchw)), inplace=True))
        return logits


class MixedPooling(nn.Module):
    """a max + (1 - a) mean, with one learned a, over at most 4x4 fields of equal size: (N, F).

    The mixed pooling of Lee et al. (AISTATS 2016) as Shallow-Deep Networks have it: a starts
    uniformly in (0, 1) and is not bounded. Of tokens it is taken over all of them. Where a field is
    a single position, the state is passed on as it is.
    """

    share: nn.Parameter | None

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, *sides = shape if len(shape) == 3 else shape[-1:]
        fields = [_fields(side) for side in sides]
        self.field = tuple(side // count for side, count in zip(sides, fields, strict=True))
        self.num_features = width * math.prod(fields)
        mixes = len(shape) != 3 or max(self.field) > 1
        self.register_parameter("share", nn.Parameter(torch.rand(())) if mixes else None)

    def forward(self, h: Tensor) -> Tensor:
        if self.share is None:
            return h.flatten(1)
        if h.ndim == 4:
            largest, mean = F.max_pool2d(h, self.field), F.avg_pool2d(h, self.field)
        else:
            largest, mean = h.flatten(1, -2).amax(dim=1), pool(h)
        return (self.share * largest + (1 - self.share) * mean).flatten(1)


def _fields(side: int) -> int:
    """Return the most fields, at most four, into which a side divides evenly."""
    return max(count for count in range(1, _GRID_SIDE + 1) if side % count == 0)


class MixedHead(nn.Module):
    """Mixed pooling and a linear classifier."""

    def __init__(self, num_classes: int, shape: Shape) -> None:
        super().__init__()
        self.pooling = MixedPooling(shape)
        self.linear = nn.Linear(self.pooling.num_features, num_classes)

    def forward(self, h: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.pooling(h))
        return logits


class CascadingHead(nn.Module):
    """Base of heads that also read the logits (N, K) of the head before them, without gradient.

    `forward(h, before_nk=None)`: where there are none, as when its cost is counted, zeros. The head
    of the first exit has none before it, so it is another one.
    """


def maker_of(kind: HeadKind) -> HeadMaker:
    """Return how the heads of a kind are made."""

    def make(num_classes: int, shape: Shape, _: int) -> nn.Module:
        if kind == "grid" or kind == "mixed":
            return (GridHead if kind == "grid" else MixedHead)(num_classes, shape)
        width = shape[0] if len(shape) == 3 else shape[-1]
        return (Head if kind == "pooled" else ConvolutionalHead)(num_classes, width)

    return make
