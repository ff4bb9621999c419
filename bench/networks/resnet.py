"""The backbone all methods share: CIFAR ResNets of depth 6n+2 (He et al. 2016, section 4.2).

Owns stem, basic blocks, shortcuts A and B and the head; knows nothing of gates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import ConfigError, UnknownNameError
from bench.networks.unit import RemovedResidual

WIDTHS = (16, 32, 64)
DEPTHS = (8, 14, 20, 26, 32, 38, 44, 50, 56, 62, 68, 74, 80, 86, 92, 98, 104, 110)
BACKBONES = tuple(f"resnet{depth}" for depth in DEPTHS)
Shortcut = Literal["A", "B"]
_SMALLEST_SIDE = 4


class Stem(nn.Module):
    """conv3x3, batch norm, ReLU: (N, C, H, W) -> (N, 16, H, W), non-negative."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(WIDTHS[0])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.relu(self.bn(self.conv(x)), inplace=True)
        return out


class Residual(nn.Module):
    """The branch F that a gate skips: conv-BN-ReLU-conv-BN."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out: Tensor = self.bn2(self.conv2(hidden))
        return out


class PaddedSubsample(nn.Module):
    """Shortcut A at a stage border: every second pixel, zero channels on both sides."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.pad = (c_out - c_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


class Projection(nn.Module):
    """Shortcut B at a stage border: conv1x1 with stride 2, batch norm."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x))
        return out


class Block(nn.Module):
    """A post-activation basic block: y = ReLU(S(x) + F(x))."""

    def __init__(self, c_in: int, c_out: int, *, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.c_out = c_out
        self.stride = stride
        self.residual: nn.Module = Residual(c_in, c_out, stride)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            border = PaddedSubsample if shortcut == "A" else Projection
            self.shortcut = border(c_in, c_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.residual(x), inplace=True)


class Head(nn.Module):
    """Global average pooling and the classifier: (N, C, h, w) -> (N, K), C = 64 at the end."""

    def __init__(self, num_classes: int, width: int = WIDTHS[-1]) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


class ResNet(nn.Module):
    """The plain network: stem, 3n blocks, head. (N, C, H, W) -> (N, K)."""

    def __init__(self, depth: int, *, shortcut: Shortcut, num_classes: int, channels: int) -> None:
        super().__init__()
        self.stem = Stem(channels)
        blocks: list[Block] = []
        c_in = WIDTHS[0]
        for width in WIDTHS:
            for _ in range((depth - 2) // 6):
                stride = 1 if c_in == width else 2
                blocks.append(Block(c_in, width, stride=stride, shortcut=shortcut))
                c_in = width
        self.blocks = nn.ModuleList(blocks)
        self.head = Head(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @property
    def is_complete(self) -> bool:
        """Whether no block has been removed."""
        return not any(isinstance(module, RemovedResidual) for module in self.modules())

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.head(h)
        return logits


class Stage(NamedTuple):
    """The blocks of one stage, by index, and the shape (C, h, w) behind each of them."""

    blocks: range
    shape: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Backbone:
    """What a method builds on: the shape of the ResNet and, if any, its starting weights.

    Raises:
        UnknownNameError: `name` is not in BACKBONES.
        ConfigError: the images are smaller than two halvings allow.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    shortcut: Shortcut = "A"
    weights: Mapping[str, Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.name not in BACKBONES:
            raise UnknownNameError("backbone", self.name, BACKBONES)
        if min(self.image_shape[1:]) < _SMALLEST_SIDE:
            raise ConfigError(
                f"Images of {self.image_shape[1]}x{self.image_shape[2]} pixels are too small.",
                hint=f"A CIFAR ResNet halves them twice: at least {_SMALLEST_SIDE} a side.",
            )

    @property
    def depth(self) -> int:
        return int(self.name.removeprefix("resnet"))

    @property
    def num_blocks(self) -> int:
        return (self.depth - 2) // 2

    @property
    def stem_shape(self) -> tuple[int, int, int]:
        """Shape (16, H, W) of what the first block reads."""
        return (WIDTHS[0], *self.image_shape[1:])

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The three stages; each border halves both sides, rounding up."""
        per_stage = self.num_blocks // len(WIDTHS)
        height, width = self.image_shape[1:]
        found: list[Stage] = []
        for number, channels in enumerate(WIDTHS):
            first = number * per_stage
            found.append(Stage(range(first, first + per_stage), (channels, height, width)))
            height, width = -(-height // 2), -(-width // 2)
        return tuple(found)

    @property
    def input_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Shape (C, h, w) of what each block reads: what the block before it has written."""
        written = [stage.shape for stage in self.stages for _ in stage.blocks]
        return (self.stem_shape, *written[:-1])

    def build(self) -> ResNet:
        """Return the plain ResNet, with the starting weights if there are any."""
        net = ResNet(
            self.depth,
            shortcut=self.shortcut,
            num_classes=self.num_classes,
            channels=self.image_shape[0],
        )
        if self.weights is not None:
            net.load_state_dict(dict(self.weights))
        return net.to(memory_format=torch.channels_last)
