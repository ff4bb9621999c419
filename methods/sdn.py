"""Shallow-Deep Networks: internal classifiers along the whole trunk; sure images leave early.

Reference: Kaya, Hong, Dumitras, "Shallow-Deep Networks: Understanding and Mitigating Network
Overthinking", ICML 2019, arXiv 1810.07052, and the authors' code.

How it decides. Up to six classifiers lie where 15, 30, 45, 60, 75 and 90 % of the cost have been
spent, as nearly as the blocks allow. Each reads its state through mixed pooling,

    a max + (1 - a) mean        over 4x4 fields, one learned a per classifier

and one linear layer. An image leaves at the first classifier whose largest probability reaches q,
one q for all. Where none does, not even at the end, the answer is that of the surest of all
classifiers, the trunk's own included (`fallback`); it costs what the whole network costs.

How it learns. `joint`: trunk and classifiers from the start, the inner ones with weights that grow
with the epoch t = 1 ... T up to the share C_i of the cost at which they lie:

    L = CE_last + sum of tau_i CE_i,        tau_i = min(C_i, 0.01 + C_i t / T)

`ic-only`: the dense network first; then the classifiers alone, from the sum of their
cross-entropies, by Adam. The trunk is frozen with its batch-norm statistics, which in the authors'
code go on moving.

How the threshold is chosen. The authors sweep q on the test set. Here it is set on held-out
training images: the mean cost may be a given share of the dense network's, classifiers counted; one
share, one operating point. A share below the cost of the first exit lets all leave there.

Published, in the abstract: on CIFAR-10, CIFAR-100 and Tiny ImageNet the mean cost of inference
falls by more than half at the accuracy of the whole network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from bench.method import (
    Backbone,
    Batch,
    Budget,
    Choice,
    DynamicNet,
    Method,
    MethodConfig,
    OptimizerSpec,
    Phase,
    Point,
    Reference,
    Tags,
)
from bench.networks.exit_calibration import Ascending, AscendingShares, calibrate_to_costs
from bench.networks.exit_places import SIX_SHARES, nearest_to_shares
from bench.networks.exit_rules import Carried, ProbabilityReaches, largest_probability
from bench.networks.exits import ExitResNet
from bench.phases import ExitsAlone, JointExits

_JOINT_EPOCHS, _IC_EPOCHS = 100, 25
_JOINT = OptimizerSpec(lr=0.1, schedule="step", milestones=(0.35, 0.6, 0.85))
_IC = OptimizerSpec(kind="adam", lr=1e-3, schedule="step", milestones=(0.6,))


class SdnConfig(MethodConfig):
    """Settings of Shallow-Deep Networks."""

    training: Annotated[Literal["joint", "ic-only"], Choice(("joint", "ic-only"))] = Field(
        "joint", description="trunk and exits together, or exits alone on a frozen dense network"
    )
    fallback: Literal["most confident", "last"] = Field(
        "most confident", description="whose answer counts where no exit is sure enough"
    )
    positions: AscendingShares = Field(
        SIX_SHARES, description="where exits lie: shares of the dense network's MACs before them"
    )
    budgets: Ascending = Field(
        (0.25, 0.5, 0.75, 1.0), description="mean MACs of the held-out images, of the dense's"
    )


class MostConfident(ProbabilityReaches):
    """Where no exit is sure enough, the surest of all answers; of two as sure, the earlier."""

    def answer(
        self, logits_nk: Tensor, carried: Carried, *, exit_index: int
    ) -> tuple[Tensor, Carried]:
        sure_n = largest_probability(logits_nk)
        surest_nk, most_n = carried if carried else (logits_nk, sure_n)
        surest_nk = torch.where((sure_n > most_n)[:, None], logits_nk, surest_nk)
        own_nk = surest_nk if exit_index == self.num_exits else logits_nk
        return own_nk, (surest_nk, torch.maximum(sure_n, most_n))


class GrowingWeights(JointExits):
    """Trunk and exits together, the exits with weights that grow from epoch to epoch."""

    config: SdnConfig
    limits: tuple[float, ...] = ()

    def weights(self, net: ExitResNet, progress: float) -> Sequence[float]:
        if not self.limits:
            self.limits = tuple(nearest_to_shares(net.backbone, self.config.positions).values())
        epoch = min(self.epochs, 1 + int(progress * self.epochs + 1e-9))
        return [*(min(c, 0.01 + c * epoch / self.epochs) for c in self.limits), 1.0]


class Sdn(Method[SdnConfig]):
    """Linear exits behind mixed pooling along the trunk, taken when the probability is high."""

    name = "sdn"
    reference = Reference(
        title="Shallow-Deep Networks: Understanding and Mitigating Network Overthinking",
        authors="Kaya, Hong, Dumitras",
        year=2019,
        url="https://arxiv.org/abs/1810.07052",
    )
    tags = Tags(decision="exit", extra_share=0.1, calibrates=True, reconstructed=("budgets",))

    def variant(self, config: SdnConfig) -> str:
        return config.training + (", last" if config.fallback == "last" else "")

    def starts_from_dense(self, config: SdnConfig) -> bool:
        return config.training == "ic-only"

    def published_epochs(self, config: SdnConfig) -> int:
        return _JOINT_EPOCHS if config.training == "joint" else _IC_EPOCHS

    def build(self, backbone: Backbone, config: SdnConfig) -> DynamicNet:
        places = nearest_to_shares(backbone, config.positions)
        kind = MostConfident if config.fallback == "most confident" else ProbabilityReaches
        rule = kind(len(config.budgets), len(places))
        return ExitResNet(backbone, rule, starts=tuple(places), head="mixed")

    def phases(self, config: SdnConfig, budget: Budget) -> Sequence[Phase]:
        schedule = budget.schedule(published=_JOINT)
        if config.training == "ic-only":
            schedule["optimizer"] = _IC
            return [ExitsAlone("classifiers", **schedule)]
        return [GrowingWeights("joint", config, **schedule)]

    def calibrate(self, net: DynamicNet, config: SdnConfig, held_out: Iterable[Batch]) -> None:
        assert isinstance(net, ExitResNet)
        calibrate_to_costs(net, (batch.x_nchw for batch in held_out), config.budgets)

    def operating_points(self, net: DynamicNet, config: SdnConfig) -> Sequence[Point]:
        assert isinstance(net, ExitResNet)
        return [Point(*view) for view in net.views([f"budget={b:g}" for b in config.budgets])]
