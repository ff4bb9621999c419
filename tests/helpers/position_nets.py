"""Small networks whose gates are masks of positions, by a policy of a stranger; no tests here."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from gated_nets import MERGES, season
from gated_nets import images as gated_images
from torch import Tensor, nn

from bench.networks.gated import GatedResNet
from bench.networks.local import local_residuals
from bench.networks.policy import BlockByBlock, Policy
from bench.networks.trunk import Backbone, Shortcut
from bench.networks.unit import Unit


class PositionGates(Policy):
    """A 1x1 convolution of a block's input says where it runs; block 1 has no gate, and the gate of
    block 0 is one for the whole image."""

    def __init__(self, base: Backbone) -> None:
        super().__init__([b == 1 for b in range(base.num_blocks)])
        residuals = local_residuals(base, "a stranger's policy")
        self.shapes = base.input_shapes
        self.convs = nn.ModuleList(
            nn.Conv2d(shape[0], 1, 1, stride=residual.stride)
            for residual, shape in zip(residuals, self.shapes, strict=True)
        )

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> BlockByBlock:
        return BlockByBlock(self, self.decide)

    def units(self) -> Sequence[Unit]:
        return [Unit(f"gate{b}", self.convs[b], self.shapes[b], True, "policy") for b in self.gated]

    def decide(self, index: int, h_nchw: Tensor) -> Tensor:
        z_n1hw: Tensor = self.convs[index](h_nchw)
        return (z_n1hw > 0).float() if index else (z_n1hw.mean(dim=(1, 2, 3)) > 0).float()


def images_for(net: GatedResNet, count: int, seed: int = 5) -> Tensor:
    return gated_images(count, seed, net.backbone.image_shape)


@functools.cache
def position_net(
    name: str = "resnet14",
    side: tuple[int, int] = (8, 8),
    shortcut: Shortcut = "A",
    merge: str = "residual",
) -> GatedResNet:
    """Return a network whose masks are about half set, differently in each image."""
    torch.manual_seed(3)
    base = Backbone(name, 10, (3, *side), shortcut)
    net = season(GatedResNet(base, PositionGates(base), merge=MERGES[merge]()), (3, *side))
    x = images_for(net, 64, seed=8)
    with torch.no_grad():
        for b in net.policy.gated:
            # One after the other: what a gate reads depends on the gates before it.
            seen: list[Tensor] = []
            hook = net.policy.convs[b].register_forward_hook(lambda _, __, z: seen.append(z))  # noqa: B023
            net(x)
            hook.remove()
            conv = net.policy.convs[b]
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            conv.bias.sub_(seen[0].median() + 1e-3)
    return net


def random_masks(net: GatedResNet, count: int, share: float, seed: int = 1) -> list[Tensor]:
    """Return a mask (N, 1, h, w) for each block in which about that share is set."""
    draws = torch.Generator().manual_seed(seed)
    shapes = net.backbone.layout.sums
    return [(torch.rand(count, 1, *s[1:], generator=draws) < share).float() for s in shapes]
