"""Synthetic images of different contrast and colour, and synthetic runs for controls to start from.

Owns what a method is tried on; knows no check.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.measure.accuracy import block_rates
from bench.measure.cost import macs_per_image, unit_macs
from bench.measure.modes import evaluating
from bench.method import Batch, Source, SourcePoint
from bench.networks.gated import GatedResNet
from bench.networks.policy import Policy, UpFront
from bench.networks.trunk import Backbone, pool
from bench.networks.unit import Unit

SHAPE = (3, 16, 16)
CLASSES = 5
_SOURCE_STEPS = 4


def images(count: int, *, seed: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Return (N, C, H, W) of different contrast and tint, so that policies can tell images apart.

    The tint leans to the label `n % CLASSES` of image n.
    """
    draws = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *shape, generator=draws)
    contrast = 0.2 + 1.6 * torch.rand(count, 1, 1, 1, generator=draws)
    tint = torch.randn(count, shape[0], 1, 1, generator=draws)
    lean = torch.randn(CLASSES, shape[0], 1, 1, generator=torch.Generator().manual_seed(0))
    x_nchw = contrast * noise + tint + 0.5 * lean[torch.arange(count) % CLASSES]
    return x_nchw.contiguous(memory_format=torch.channels_last)


def batch(count: int, *, seed: int, shape: tuple[int, int, int] = SHAPE) -> Batch:
    """Return `count` images with their labels."""
    index_n = torch.arange(count)
    return Batch(images(count, seed=seed, shape=shape), index_n % CLASSES, index_n)


def held_out() -> list[Batch]:
    """Return batches that no training has seen, the last one smaller."""
    return [batch(40, seed=901), batch(40, seed=902), batch(23, seed=903)]


def source_of(role: str, backbone: Backbone) -> Source:
    """Return a briefly trained run of the role "dense" or "dynamic" to make a control from."""
    shape = backbone.image_shape
    policy = None if role == "dense" else ByTint(backbone)
    net = GatedResNet(backbone, policy)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for step in range(_SOURCE_STEPS):
        few = batch(16, seed=500 + step, shape=shape)
        loss = F.cross_entropy(net(few.x_nchw).logits, few.labels_n)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    net.zero_grad(set_to_none=True)
    net.eval()
    if policy is not None:
        policy.centre(net.trunk.stem(images(64, seed=600, shape=shape)))
    return Source("synthetic", [_point(net, backbone)])


class ByTint(Policy):
    """Half of the images run each block, chosen by the colour of the stem's output.

    The last block always runs.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__([False] * (backbone.num_blocks - 1) + [True])
        self.width = backbone.widths[0]
        self.score = nn.Linear(self.width, len(self.gated))

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        z_ng = self.score(pool(stem_nchw))
        return UpFront(self.spread((z_ng > 0).float()), always_on=self.always_on)

    def units(self) -> Sequence[Unit]:
        return [Unit("score", self.score, (self.width,), True, "policy")]

    @torch.no_grad()
    def centre(self, stem_nchw: Tensor) -> None:
        """Set the bias so that each gate is open for half of these images."""
        z_ng = self.score(pool(stem_nchw))
        self.score.bias.sub_(z_ng.median(dim=0).values)


def _point(net: GatedResNet, backbone: Backbone) -> SourcePoint:
    dense = sum(unit_macs(GatedResNet(backbone)).values())
    with evaluating(net):
        executed_nu = net(images(64, seed=601, shape=backbone.image_shape)).executed
    macs_n = macs_per_image(executed_nu, list(unit_macs(net).values()))
    return SourcePoint("", net, block_rates(net.units(), executed_nu), macs_n.mean().item() / dense)
