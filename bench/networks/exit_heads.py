"""What classifies at an exit, from the state there: maps (N, C, H, W) or tokens (N, T, C).

Owns the heads that several methods use and what tells how one is made. Knows no rule and no trunk.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.networks.cifar_resnet import Head, conv_norm_relu
from bench.networks.trunk import Shape, pool, width_of

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


def convolutional_head(num_classes: int, width: int) -> nn.Module:
    """Return conv3x3, batch norm, ReLU; then pooling and a linear classifier as at the trunk's
    end."""
    layers = conv_norm_relu(width, width)
    head = nn.Sequential(layers | {"head": Head(num_classes, width)})
    nn.init.kaiming_normal_(head.get_parameter("conv.weight"))
    return head


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


def mixed_head(num_classes: int, shape: Shape) -> nn.Module:
    """Return mixed pooling and a linear classifier."""
    pooling = MixedPooling(shape)
    linear = nn.Linear(pooling.num_features, num_classes)
    return nn.Sequential(OrderedDict(pooling=pooling, linear=linear))


class CascadingHead(nn.Module):
    """Base of heads that also read the logits (N, K) of the head before them, without gradient.

    `forward(h, before_nk=None)`: where there are none, as when its cost is counted, zeros. The head
    of the first exit has none before it, so it is another one.
    """


MAKERS: Mapping[HeadKind, HeadMaker] = {
    "pooled": lambda num_classes, shape, _: Head(num_classes, width_of(shape)),
    "grid": lambda num_classes, shape, _: GridHead(num_classes, shape),
    "mixed": lambda num_classes, shape, _: mixed_head(num_classes, shape),
    "convolution": lambda num_classes, shape, _: convolutional_head(num_classes, width_of(shape)),
}
"""How the heads of a kind are made."""
