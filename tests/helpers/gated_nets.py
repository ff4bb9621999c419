"""Small gated networks with seasoned batch norms, and two policies; the tests lie elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from bench.networks.cifar_resnet import ResNet
from bench.networks.execution import GateOutput, GateResidual
from bench.networks.gated import GatedResNet
from bench.networks.policy import Decisions, Policy, UpFront
from bench.networks.trunk import Backbone, Shortcut
from bench.networks.unit import DynamicNet, Unit
from methods.skipnet import RecurrentGates

Net = TypeVar("Net", bound=DynamicNet)
SHAPE = (3, 8, 8)
BLOCKS = 6
MERGES = {"residual": GateResidual, "output": GateOutput}


class PooledGates(Policy):
    """One gate per block, from a linear layer on the pooled input of the block."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__([b == 1 for b in range(backbone.num_blocks)])
        self.widths = [channels for channels, _, _ in backbone.input_shapes]
        self.nets = nn.ModuleList(nn.Linear(width, 1) for width in self.widths)

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> Decisions:
        return _PooledDecisions(self)

    def units(self) -> Sequence[Unit]:
        return [
            Unit(f"gate{b}", self.nets[b], (self.widths[b],), True, "policy") for b in self.gated
        ]

    def score(self, index: int, h_nchw: Tensor) -> Tensor:
        """Return z (N,) of block `index`."""
        z_n1: Tensor = self.nets[index](h_nchw.mean(dim=(2, 3)))
        return z_n1.flatten()


class _PooledDecisions(Decisions):
    def __init__(self, policy: PooledGates) -> None:
        self.policy = policy
        self.scores: list[Tensor] = []

    def gate(self, index: int, h_nchw: Tensor) -> Tensor | None:
        if self.policy.always_on[index]:
            return None
        z_n = self.policy.score(index, h_nchw)
        self.scores.append(z_n)
        return (z_n > 0).float()

    def terms(self) -> dict[str, Tensor]:
        return {"scores_ng": torch.stack(self.scores, dim=1)}


class FixedGates(Policy):
    """The same given row of gates for every image."""

    def __init__(self, row: Sequence[float], always_on: Sequence[bool]) -> None:
        super().__init__(always_on)
        self.row = torch.tensor(row)

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        return UpFront(self.row.expand(len(x_nchw), -1), always_on=self.always_on)

    def units(self) -> Sequence[Unit]:
        return [Unit("nothing", nn.Identity(), (1,), True, "policy")]


def lstm_gates(base: Backbone) -> Policy:
    """Return SkipNet's recurrent gates, each open for some images."""
    policy = RecurrentGates(base, 0.0)
    nn.init.normal_(policy.last.weight, std=4)
    return policy


def images(count: int, seed: int = 5, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    draws = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))
    return draws.contiguous(memory_format=torch.channels_last)


def backbone(shortcut: str = "A") -> Backbone:
    assert shortcut in ("A", "B")
    kind: Shortcut = "A" if shortcut == "A" else "B"
    return Backbone("resnet14", 10, SHAPE, kind)


def season(net: Net, shape: tuple[int, int, int] = SHAPE) -> Net:
    """Give batch norms statistics and affine parameters as training would leave them."""
    draws = torch.Generator().manual_seed(2)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=draws)
            module.bias.data.normal_(0, 0.3, generator=draws)
    net.train()
    with torch.no_grad():
        for seed in range(3):
            net(1.5 * images(16, seed, shape) + 0.3)
    return net.eval()


@functools.cache
def seasoned(merge: str = "residual", shortcut: str = "A") -> GatedResNet:
    torch.manual_seed(1)
    return season(GatedResNet(backbone(shortcut), merge=MERGES[merge]()))


@functools.cache
def per_unit_net(merge: str, shortcut: str) -> GatedResNet:
    """Return a network whose gates read the state and are about half open, image by image."""
    torch.manual_seed(3)
    base = backbone(shortcut)
    net = season(GatedResNet(base, PooledGates(base), merge=MERGES[merge]()))
    with torch.no_grad():
        for position, b in enumerate(net.policy.gated):
            # One after the other: the scores of a gate depend on the gates before it.
            layer = net.policy.nets[b]
            assert isinstance(layer, nn.Linear)
            layer.weight.mul_(20)
            scores_n = net(images(64, seed=8)).terms["scores_ng"][:, position]
            layer.bias.sub_(scores_n.median() + 1e-3)
    return net


@torch.no_grad()
def transplant(source: ResNet, target: GatedResNet) -> None:
    """Copy the weights of a plain trunk into a gated network's trunk."""
    target.trunk.load_state_dict(source.state_dict())


def noted_shapes(net: DynamicNet) -> dict[str, tuple[int, ...]]:
    """Return what each unit will have read, without the batch, once the network has run."""
    seen: dict[str, tuple[int, ...]] = {}
    for unit in net.units():

        def note(module: nn.Module, args: tuple[Tensor, ...], name: str = unit.name) -> None:
            seen[name] = tuple(args[0].shape[1:])

        unit.module.register_forward_pre_hook(note)
    return seen
