"""Patience-based early exit: an image leaves when several classifiers in a row agree on it.

Reference: Zhou, Xu, Ge, McAuley, Xu, Wei, "BERT Loses Patience: Fast and Robust Inference with
Early Exit", NeurIPS 2020, arXiv 2006.04152, and the authors' code; for images also the port in
early-exit-benchmark, which puts the rule on the classifiers of Shallow-Deep Networks.

How it decides. At each classifier a counter says how many in a row have given the same label as
the one before. When it reaches the patience P, that is after P + 1 equal answers, the image leaves
with the answer of the classifier where it stands; how sure that one is plays no role. The earliest
exit is number P + 1. An image that none lets go gets the answer of the last.

The port starts to count at 1 and stops above its T. Its T is the P here from 1 on; its T = 0 lets
all leave at exit 1, the authors' P = 0 runs all layers. Kept here is the number of equal answers.

How it learns. Trunk and classifiers together, each classifier j = 1 ... n weighing as its depth,

    L = sum of j CE_j / sum of j

(the port takes the plain mean). The published schedule fine-tunes a language model; for ResNets it
is that of Shallow-Deep Networks here.

Where the classifiers lie, and how they read a state, is that of Shallow-Deep Networks too: up to
six of them where 15, 30, 45, 60, 75 and 90 % of the cost have been spent. Each P from 1 to the
number of exits less one is an operating point of the same training; nothing is to be calibrated.

Published numbers are of language models, and leave out what the classifiers cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import AfterValidator, Field, PositiveInt
from torch import Tensor

from bench.method import (
    Backbone,
    Budget,
    Choice,
    DynamicNet,
    Method,
    MethodConfig,
    NotApplicable,
    OptimizerSpec,
    Phase,
    Point,
    Reference,
    Tags,
)
from bench.networks.exit_calibration import AscendingShares, ascending
from bench.networks.exit_heads import HeadKind
from bench.networks.exit_places import SIX_SHARES, nearest_to_shares
from bench.networks.exit_rules import Carried, ExitRule
from bench.networks.exits import ExitResNet
from bench.phases import JointExits

_PUBLISHED_EPOCHS = 100
_PUBLISHED = OptimizerSpec(lr=0.1, schedule="step", milestones=(0.35, 0.6, 0.85))


def in_order(values: tuple[int, ...]) -> tuple[int, ...]:
    """Return `values` if there are none, or each is larger than the one before."""
    return tuple(map(int, ascending(values))) if values else values


class PbeeConfig(MethodConfig):
    """Settings of patience-based early exit."""

    patience: Annotated[tuple[PositiveInt, ...], AfterValidator(in_order)] = Field(
        (), description="P, one operating point each; if none is given, all that let images leave"
    )
    head: Annotated[HeadKind, Choice(("mixed", "pooled"))] = Field(
        "mixed", description="what classifies at an exit"
    )
    positions: AscendingShares = Field(
        SIX_SHARES, description="where exits lie: shares of the dense network's MACs before them"
    )


class Patience(ExitRule):
    """An image leaves when `equal_answers_p` classifiers in a row, this one last, say the same."""

    equal_answers_p: Tensor

    def __init__(self, patience: Sequence[int], num_exits: int) -> None:
        super().__init__(len(patience), num_exits)
        self.register_buffer("equal_answers_p", torch.tensor(patience) + 1)

    def answer(
        self, logits_nk: Tensor, carried: Carried, *, exit_index: int
    ) -> tuple[Tensor, Carried]:
        label_n = logits_nk.argmax(dim=1)
        once_n = torch.ones_like(label_n)
        if not carried:
            return logits_nk, (label_n, once_n)
        before_n, count_n = carried
        return logits_nk, (label_n, torch.where(label_n == before_n, count_n + 1, once_n))

    def leaves(self, _: Tensor, carried: Carried, *, exit_index: int, point: int) -> Tensor:
        return carried[1] >= self.equal_answers_p[point]


class DepthWeights(JointExits):
    """Trunk and exits together, each classifier weighted by its number."""

    def weights(self, net: ExitResNet, progress: float) -> Sequence[float]:
        numbers = range(1, len(net.exits) + 2)
        return [number / sum(numbers) for number in numbers]


class Pbee(Method[PbeeConfig]):
    """Exits along the trunk, taken when enough of them in a row agree."""

    name = "pbee"
    reference = Reference(
        title="BERT Loses Patience: Fast and Robust Inference with Early Exit",
        authors="Zhou, Xu, Ge, McAuley, Xu, Wei",
        year=2020,
        url="https://arxiv.org/abs/2006.04152",
    )
    tags = Tags(decision="exit", reconstructed=("head", "positions"))

    def variant(self, config: PbeeConfig) -> str:
        return config.head

    def published_epochs(self, config: PbeeConfig) -> int:
        return _PUBLISHED_EPOCHS

    def build(self, backbone: Backbone, config: PbeeConfig) -> DynamicNet:
        places = tuple(nearest_to_shares(backbone, config.positions))
        patience = config.patience or tuple(range(1, len(places)))
        if not patience:
            raise NotApplicable(
                f"Patience needs two exits before the end; {backbone.name} has"
                f" {backbone.num_blocks} blocks and room for one."
            )
        rule = Patience(patience, len(places))
        return ExitResNet(backbone, rule, starts=places, head=config.head)

    def phases(self, config: PbeeConfig, budget: Budget) -> Sequence[Phase]:
        return [DepthWeights("joint", **budget.schedule(published=_PUBLISHED))]

    def operating_points(self, net: DynamicNet, config: PbeeConfig) -> Sequence[Point]:
        assert isinstance(net, ExitResNet) and isinstance(net.rule, Patience)
        needed = net.rule.equal_answers_p.tolist()
        return [Point(*view) for view in net.views([f"patience={n - 1}" for n in needed])]
