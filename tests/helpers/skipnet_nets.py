"""SkipNets for the tests beside this file: small ones, and ones whose gates are half open."""

import torch
from torch import Tensor

from bench.data.augment import Batch
from bench.method import Budget, OptimizerSpec, Phase
from bench.networks.gated import GatedResNet
from bench.networks.trunk import Backbone
from methods.skipnet import SkipNet, SkipNetConfig, Supervised

BACKBONE = Backbone("resnet14", 10, (3, 16, 16), "B")
BUDGET = Budget(recipe="test", epochs=8, batch_size=16, optimizer=OptimizerSpec(lr=0.1))
GATES = ["rnn", "ff1", "ff2"]


def skipnet(backbone: Backbone = BACKBONE, **settings: object) -> GatedResNet:
    torch.manual_seed(0)
    net = SkipNet().build(backbone, SkipNetConfig(**settings))
    return net


def undecided(gate: str) -> GatedResNet:
    """Return a network, in eval mode, whose gates let about half of the images pass."""
    net = skipnet(gate=gate).eval()
    x = batch_of(64, seed=9).x_nchw
    for block in net.policy.gated:
        # One after the other: what a gate reads depends on the gates before it.
        with torch.no_grad():
            z_n = net(x).terms["log_odds_ng"][:, block - 1]
        shift(net, block, -float(z_n.median()), stretch=1 / float(z_n.std()))
    return net


def shift(net: GatedResNet, block: int, shift: float, *, stretch: float = 1.0) -> None:
    """Make the log-odds z of one block stretch (z + shift), whatever the kind of gate."""
    gates, original = net.policy, net.policy.log_odds

    def log_odds(index: int, h: Tensor, state: object) -> tuple[Tensor, object]:
        z_n, after = original(index, h, state)  # type: ignore[arg-type]
        return (stretch * (z_n + shift) if index == block else z_n), after

    gates.log_odds = log_odds  # type: ignore[method-assign, assignment]


def batch_of(count: int = 16, seed: int = 1) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    contrast = 0.2 + 1.6 * torch.rand(count, 1, 1, 1, generator=draws)
    x = contrast * torch.randn(count, 3, 16, 16, generator=draws)
    x += torch.randn(count, 3, 1, 1, generator=draws)
    return Batch(x, torch.arange(count) % 10, torch.arange(count))


def phase_of(kind: type[Phase], **settings: object) -> Phase:
    first, second = SkipNet().phases(SkipNetConfig(**settings), BUDGET)
    return first if kind is Supervised else second
