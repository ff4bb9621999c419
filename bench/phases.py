"""Phases of training that several methods share.

Each is one stretch with one loss; a method with a loss of its own writes its own phase. Owns no
optimizer and no schedule: those come with the budget or the method.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Unpack

import torch
import torch.nn.functional as F

from bench.method import Batch, DynamicNet, LossTerms, ParameterGroup, Phase
from bench.networks.exits import ExitResNet
from bench.networks.gated import GatedResNet
from bench.networks.halting import HaltingResNet
from bench.recipes import Schedule


class CrossEntropy(Phase):
    """Cross-entropy on every weight, by whatever the network decides in training."""

    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        logits = net(batch.x_nchw).logits
        total = F.cross_entropy(logits, batch.labels_n)
        return LossTerms(total, {"loss": total}, logits)


def trunk_and_rest(net: DynamicNet, lr_scale: float) -> list[ParameterGroup]:
    """Return all parameters in two groups: the trunk's, and what decides, which learns at
    `lr_scale` times its rate."""
    assert isinstance(net, GatedResNet | HaltingResNet)
    trunk = tuple(net.trunk.parameters())
    known = set(trunk)
    rest = tuple(parameter for parameter in net.parameters() if parameter not in known)
    return [ParameterGroup(trunk), ParameterGroup(rest, lr_scale)]


class PonderCost(Phase):
    """Cross-entropy plus tau times the ponder cost, on every weight of a halting network.

    The scores learn at `side_lr_scale` times the rate of the trunk.
    """

    def __init__(
        self, name: str, *, tau: float, side_lr_scale: float, **schedule: Unpack[Schedule]
    ) -> None:
        super().__init__(name, **schedule)
        self.tau = tau
        self.side_lr_scale = side_lr_scale

    def groups(self, net: DynamicNet) -> Sequence[ParameterGroup]:
        return trunk_and_rest(net, self.side_lr_scale)

    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        output = net(batch.x_nchw)
        entropy = F.cross_entropy(output.logits, batch.labels_n)
        ponder = output.terms["ponder_ns"].mean(dim=0).sum()
        parts = {"loss": entropy, "ponder": ponder}
        for number, units in enumerate(output.terms["units_ns"].mean(dim=0), start=1):
            parts[f"units_stage{number}"] = units
        return LossTerms(entropy + self.tau * ponder, parts, output.logits)


class JointExits(Phase):
    """Trunk and exits together, each classifier weighed by `weights`."""

    @abstractmethod
    def weights(self, net: ExitResNet, progress: float) -> Sequence[float]:
        """Return the weight of the cross-entropy of each classifier, the trunk's own head last."""

    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        assert isinstance(net, ExitResNet)
        logits_wnk = net.exit_logits(batch.x_nchw)
        losses = [F.cross_entropy(logits_nk, batch.labels_n) for logits_nk in logits_wnk]
        names = [*(f"loss_exit{e + 1}" for e in range(len(net.exits))), "loss_last"]
        weighted = [w * v for w, v in zip(self.weights(net, progress), losses, strict=True)]
        parts = dict(zip(names, losses, strict=True))
        return LossTerms(torch.stack(weighted).sum(), parts, logits_wnk[-1])


class ExitsAlone(Phase):
    """The exits of a network; the trunk is frozen, with its statistics, and passes no gradient."""

    def groups(self, net: DynamicNet) -> Sequence[ParameterGroup]:
        assert isinstance(net, ExitResNet)
        return [ParameterGroup(tuple(net.exits.parameters()))]

    def set_modes(self, net: DynamicNet) -> None:
        assert isinstance(net, ExitResNet)
        net.eval()
        net.exits.train()

    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        assert isinstance(net, ExitResNet)
        losses = [F.cross_entropy(z_nk, batch.labels_n) for z_nk in net.side_logits(batch.x_nchw)]
        parts = {f"loss_exit{e + 1}": loss for e, loss in enumerate(losses)}
        return LossTerms(torch.stack(losses).sum(), parts)
