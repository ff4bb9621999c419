"""Small networks that decide for themselves, and images for them; no tests here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.errors import NotExecutable
from bench.networks.gated import GatedResNet
from bench.networks.policy import BlockByBlock, Policy, UpFront
from bench.networks.trunk import Backbone
from bench.networks.unit import Output, Unit


class ImagePolicy(Policy):
    """All gates at once, from the image, by a convolution and a linear layer."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__([False] * (backbone.num_blocks - 1) + [True])
        channels, height, width = self.shape = backbone.image_shape
        features = 4 * ((height - 1) // 2) * ((width - 1) // 2)
        self.net = nn.Sequential(
            nn.Conv2d(channels, 4, 3, stride=2), nn.Flatten(), nn.Linear(features, len(self.gated))
        )

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        gates_nb = self.spread((self.net(x_nchw) > 0).float())
        return UpFront(gates_nb, always_on=self.always_on)

    def units(self) -> Sequence[Unit]:
        return [Unit("decider", self.net, self.shape, True, "policy")]


class StatePolicy(Policy):
    """One gate per block, from what the block would read."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__([True] + [False] * (backbone.num_blocks - 1))
        self.shapes = backbone.input_shapes
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Conv2d(shape[0], 2, 3, stride=2), nn.Flatten(), nn.LazyLinear(1))
            for shape in self.shapes
        )
        for net, shape in zip(self.nets, self.shapes, strict=True):
            net(torch.ones(1, *shape))

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> BlockByBlock:
        return BlockByBlock(self, lambda b, h_nchw: (self.nets[b](h_nchw).flatten() > 0).float())

    def units(self) -> Sequence[Unit]:
        return [Unit(f"gate{b}", self.nets[b], self.shapes[b], True, "policy") for b in self.gated]


class FixedPolicy(Policy):
    """The same blocks for every image."""

    def __init__(self, backbone: Backbone, skipped: Sequence[int]) -> None:
        super().__init__([b not in skipped for b in range(backbone.num_blocks)])

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        row_b = torch.tensor(self.always_on, device=x_nchw.device).float()
        return UpFront(row_b.expand(len(x_nchw), -1), always_on=self.always_on)

    def units(self) -> Sequence[Unit]:
        return ()


class MaskedOnly(GatedResNet):
    """A network without a skipping path."""

    def execute(self, x_nchw: Tensor) -> Output:
        raise NotExecutable("positions cannot be skipped by a dense convolution")


class Disagreeing(GatedResNet):
    """A network whose skipping path is wrong by 0.5 in every logit."""

    def execute(self, x_nchw: Tensor) -> Output:
        output = super().execute(x_nchw)
        return Output(output.logits + 0.5, output.executed, output.terms)


def small_backbone(name: str = "resnet8", *, side: int = 8, shortcut: str = "A") -> Backbone:
    return Backbone(name, 10, (3, side, side), shortcut)  # type: ignore[arg-type]


def images(count: int, *, side: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(count, 3, side, side, generator=generator)
    return images.contiguous(memory_format=torch.channels_last)


def deciding_nets() -> dict[str, GatedResNet]:
    """Two real policies on ResNet-14 at 16x16, with the costly shortcut B."""
    backbone = small_backbone("resnet14", side=16, shortcut="B")
    return {
        "up front": GatedResNet(backbone, ImagePolicy(backbone)),
        "per unit": GatedResNet(backbone, StatePolicy(backbone)),
    }


def skipping_net(backbone: Backbone, skipped: Sequence[int]) -> GatedResNet:
    return GatedResNet(backbone, FixedPolicy(backbone, skipped))


def masked_only_net() -> GatedResNet:
    return MaskedOnly(small_backbone(), FixedPolicy(small_backbone(), [1]))


def disagreeing_net() -> GatedResNet:
    return Disagreeing(small_backbone(), FixedPolicy(small_backbone(), [1]))
