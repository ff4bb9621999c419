"""Learned exits: at each exit a logistic regression decides whether going on is worth its cost.

Reference: Bolukbasi, Wang, Dekel, Saligrama, "Adaptive Neural Networks for Efficient Inference",
ICML 2017, arXiv 1702.07811 (its adaptive early exits; the selection among several networks is left
out). Known here from its abstract; what that does not state is reconstructed.

How it decides. A linear classifier reads the features behind each stage. From the confidence
features of its softmax (largest probability, entropy, margin) a logistic regression says whether
the image leaves. Its three multiplications are counted.

How it learns. The network itself is left intact: the exits' classifiers are trained on it frozen,
from the cross-entropy. Then the rules are fitted on held-out training images, exit by exit, from
the last to the first. With C_k the MACs to way out k (heads and rules included) relative to the
dense network, lambda the price of a dense network's MACs, and l_k what leaving there gets wrong:

    stop_k  = l_k + lambda C_k
    ahead_k = stop at the way out that the rules already learned would choose behind k
    label   = 1[stop_k < ahead_k],     weight = |ahead_k - stop_k|

a weighted binary classification per exit. l_k is 1 for an answer that is wrong where the whole
network's is right ("excess"), or 1 for any wrong answer ("error"). One lambda, one operating
point; the larger lambda, the earlier images leave.

Published on ImageNet: up to 2.8 times faster with less than 1 % of top-5 accuracy lost; that is
with networks selected as well. Nothing is published for the ResNets of this project.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field, PositiveFloat
from torch import Tensor

from bench.method import (
    Backbone,
    Batch,
    Budget,
    Choice,
    DynamicNet,
    LogUniform,
    Method,
    MethodConfig,
    Phase,
    Point,
    Reference,
    Tags,
)
from bench.networks.exit_calibration import ascending, calibrate_by_learning, held_out_logits
from bench.networks.exit_rules import LearnedRule
from bench.networks.exits import NUM_EXITS, ExitResNet, HeadKind
from bench.phases import ExitsAlone

_EPOCHS = 20  # no schedule is known


class LearnedExitConfig(MethodConfig):
    """Settings of learned exits; all reconstructed."""

    head: Annotated[HeadKind, Choice(("grid", "pooled"))] = Field(
        "grid", description="what classifies at an exit"
    )
    lambdas: Annotated[tuple[PositiveFloat, ...], AfterValidator(ascending)] = Field(
        (0.05, 0.1, 0.2, 0.4, 0.8), description="price of a dense network's MACs, in errors"
    )
    loss: Literal["excess", "error"] = Field(
        "excess", description="what counts as wrong: only what the whole network gets right, or all"
    )
    ridge: Annotated[float, LogUniform(1e-4, 0.1)] = Field(
        1e-3, gt=0, description="penalty on the squares of the rules' weights"
    )


def losses_by_way_out(logits_wmk: Tensor, labels_m: Tensor, *, kind: str) -> Tensor:
    """Return what M images lose by each way out, (W, M) of 0 and 1, from their logits."""
    wrong_wm = (logits_wmk.argmax(dim=2) != labels_m).double()
    return (wrong_wm - wrong_wm[-1]).clamp(min=0) if kind == "excess" else wrong_wm


class LearnedExit(Method[LearnedExitConfig]):
    """Exits on a frozen network, taken by rules that weigh errors against MACs."""

    name = "learned_exit"
    reference = Reference(
        title="Adaptive Neural Networks for Efficient Inference",
        authors="Bolukbasi, Wang, Dekel, Saligrama",
        year=2017,
        url="https://arxiv.org/abs/1702.07811",
    )
    tags = Tags(
        decision="exit",
        starts_from_dense=True,
        extra_share=0.1,
        calibrates=True,
        reconstructed=("head", "lambdas", "loss", "ridge"),
        exempt={"gradient": "the trunk is trained beforehand and stays frozen"},
    )

    def variant(self, config: LearnedExitConfig) -> str:
        return f"{config.loss} {config.head}"

    def published_epochs(self, config: LearnedExitConfig) -> int:
        return _EPOCHS

    def build(self, backbone: Backbone, config: LearnedExitConfig) -> DynamicNet:
        rule = LearnedRule(len(config.lambdas), NUM_EXITS)
        return ExitResNet(backbone, rule, head=config.head)

    def phases(self, config: LearnedExitConfig, budget: Budget) -> Sequence[Phase]:
        return [
            ExitsAlone(
                "classifiers",
                epochs=budget.epochs,
                batch_size=budget.batch_size,
                optimizer=budget.optimizer,
            )
        ]

    def calibrate(
        self, net: DynamicNet, config: LearnedExitConfig, held_out: Iterable[Batch]
    ) -> None:
        assert isinstance(net, ExitResNet)
        logits_wmk = held_out_logits(net, (batch.x_nchw for batch in held_out))
        labels_m = torch.cat([batch.labels_n for batch in held_out])
        losses_wm = losses_by_way_out(logits_wmk, labels_m, kind=config.loss)
        calibrate_by_learning(net, logits_wmk, losses_wm, prices=config.lambdas, ridge=config.ridge)

    def operating_points(self, net: DynamicNet, config: LearnedExitConfig) -> Sequence[Point]:
        assert isinstance(net, ExitResNet)
        return [Point(*view) for view in net.views([f"lambda={v:g}" for v in config.lambdas])]
