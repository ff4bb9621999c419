"""CIFAR ResNets of depth 6n+2 (He et al. 2016, section 4.2).

Owns stem, basic blocks, shortcuts A and B and the head; knows nothing of gates.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import ConfigError, UnknownNameError
from bench.networks.residuals import basic_residual
from bench.networks.trunk import (
    BACKBONES,
    Backbone,
    Block,
    Family,
    Shortcut,
    Trunk,
    pool,
)

WIDTHS = (16, 32, 64)
DEPTHS = (8, 14, 20, 26, 32, 38, 44, 50, 56, 62, 68, 74, 80, 86, 92, 98, 104, 110)
MEMBERS = tuple(f"resnet{depth}" for depth in DEPTHS)
_SMALLEST_SIDE = 4


def conv_norm_relu(c_in: int, c_out: int) -> OrderedDict[str, nn.Module]:
    """Return conv3x3, batch norm, ReLU: what they give is not negative."""
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    return OrderedDict(conv=conv, bn=nn.BatchNorm2d(c_out), relu=nn.ReLU(inplace=True))


class PaddedSubsample(nn.Module):
    """Shortcut A at a stage border: every second pixel, zero channels on both sides."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.pad = (c_out - c_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


def projection(c_in: int, c_out: int) -> nn.Sequential:
    """Return shortcut B at a stage border: conv1x1 with stride 2, batch norm."""
    conv = nn.Conv2d(c_in, c_out, 1, stride=2, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(c_out)))


def block(c_in: int, c_out: int, *, stride: int, shortcut: Shortcut) -> Block:
    """Return a post-activation basic block: y = ReLU(S(x) + F(x))."""
    first = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
    second = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
    branch = basic_residual(first, nn.BatchNorm2d(c_out), second, nn.BatchNorm2d(c_out))
    border: nn.Module = nn.Identity()
    if stride != 1:
        border = (PaddedSubsample if shortcut == "A" else projection)(c_in, c_out)
    # States are never negative, and neither is what subsampling leaves of them.
    settled = stride == 1 or shortcut == "A"
    return Block(branch, border, after=nn.ReLU(inplace=True), settled=settled)


class Head(nn.Module):
    """Pooling and the classifier: (N, C, h, w) or (N, T, C) -> (N, K)."""

    def __init__(self, num_classes: int, width: int = WIDTHS[-1]) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(pool(x))
        return logits


class ResNet(Trunk):
    """The plain network: stem, 3n blocks, head. (N, C, H, W) -> (N, K)."""

    head: Head

    def __init__(self, depth: int, *, shortcut: Shortcut, num_classes: int, channels: int) -> None:
        stem = nn.Sequential(conv_norm_relu(channels, WIDTHS[0]))
        blocks: list[Block] = []
        c_in = WIDTHS[0]
        for width in WIDTHS:
            for _ in range((depth - 2) // 6):
                stride = 1 if c_in == width else 2
                blocks.append(block(c_in, width, stride=stride, shortcut=shortcut))
                c_in = width
        super().__init__(stem, blocks, Head(num_classes))
        names = self.state_dict().keys()
        self.library_names = {name: _common_name(name, len(blocks) // 3) for name in names}
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)


def _common_name(name: str, per_stage: int) -> str:
    """Return the name that a tensor has where CIFAR ResNets are trained elsewhere."""
    part, *rest = name.split(".")
    if part != "blocks":
        return ".".join(rest).replace("conv.", "conv1.").replace("bn.", "bn1.")
    stage, place = divmod(int(rest[0]), per_stage)
    inner = ".".join(rest[1:]).removeprefix("residual.")
    inner = inner.replace("shortcut.conv", "shortcut.0").replace("shortcut.bn", "shortcut.1")
    return f"layer{stage + 1}.{place}.{inner}"


class CifarResNets(Family):
    """resnet8 to resnet110, also known without the name of the family."""

    name = "cifar"
    summary = "CIFAR ResNets of depth 6n+2, He et al. 2016"

    def build(self, backbone: Backbone) -> Trunk:
        return ResNet(
            depth_of(backbone.member),
            shortcut=backbone.shortcut,
            num_classes=backbone.num_classes,
            channels=backbone.image_shape[0],
        )

    def members(self) -> tuple[str, ...]:
        return MEMBERS

    def side(self, member: str) -> int:
        return 32

    def check(self, backbone: Backbone) -> None:
        if backbone.member not in MEMBERS:
            others = [name for name in BACKBONES.names() if name != self.name]
            raise UnknownNameError("backbone", backbone.member, [*MEMBERS, *others])
        if min(backbone.image_shape[1:]) < _SMALLEST_SIDE:
            height, width = backbone.image_shape[1:]
            raise ConfigError(
                f"Images of {height}x{width} pixels are too small.",
                hint=f"A CIFAR ResNet halves them twice: at least {_SMALLEST_SIDE} a side.",
            )

    def ladder(self, member: str) -> Mapping[str, float]:
        depth = depth_of(member)
        return {f"resnet{d}": (d - 2) / (depth - 2) for d in DEPTHS if d < depth}


def depth_of(member: str) -> int:
    """Return the depth in a name such as resnet32."""
    return int(member.removeprefix("resnet"))
