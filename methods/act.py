"""ACT: in each stage of the ResNet, an image halts after as many blocks as it needs.

Reference: Graves, "Adaptive Computation Time for Recurrent Neural Networks", arXiv 1603.08983
(2016), carried over to residual networks by Figurnov et al., "Spatially Adaptive Computation Time
for Residual Networks", CVPR 2017, arXiv 1612.02297, and the authors' code.

How it decides. Behind each block of a stage but the last, a halting score h = sigmoid(z + bias)
reads the pooled state: z is linear in LeakyReLU(BN(pool(x))). With bias -3 everything runs at
first. The image halts at the first block N where the scores add up to 1 - eps; the remainder R is
what was missing to 1 before it. At least one block per stage runs. No threshold is tuned.

    N = min{ n : h_1 + ... + h_n >= 1 - eps }, the last block counts as h := 1
    R = 1 - (h_1 + ... + h_(N-1));   p_l = h_l for l < N,   p_N = R
    stage output = p_1 x_1 + ... + p_N x_N: a weighted sum of states, not the last state

How it learns. By gradient alone: the sum above is differentiable, and so is R.

    L = CE + tau * sum over the stages of mean(N + R)

N is a count, so the gradient of the ponder cost N + R flows through R only. `tau` is the knob.

This port changes the method: the authors' blocks are pre-activation with leaky ReLU, so their
states are raw sums; the common backbone is post-activation and its states are never negative.

The authors give no numbers of ACT on CIFAR-10. Read off a figure of the SkipNet paper, whose
authors ran this code at several depths: 92.4 % at 62 million MACs, 93.5 % at 188 million.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import nn

from bench.method import (
    Backbone,
    Budget,
    DynamicNet,
    LogUniform,
    Method,
    MethodConfig,
    OptimizerSpec,
    Phase,
    Reference,
    Tags,
    Uniform,
)
from bench.networks.halting import HaltingResNet
from bench.networks.halting_policy import ImageHalting
from bench.networks.trunk import Pool
from bench.phases import PonderCost

_PUBLISHED_EPOCHS = 256  # 100,000 steps
_PUBLISHED = OptimizerSpec(lr=0.1, weight_decay=2e-4, schedule="step", milestones=(0.6, 0.75, 0.9))
_SLOPE, _BN_EPS = 0.1, 1e-3


class ActConfig(MethodConfig):
    """Settings of ACT; all but `side_lr_scale` as in the authors' code for CIFAR-10."""

    tau: Annotated[float, LogUniform(1e-3, 0.1)] = Field(
        0.01, ge=0, description="weight of the ponder cost: the knob"
    )
    eps: float = Field(0.01, gt=0, lt=0.5, description="halt once the scores reach 1 - eps")
    halting_bias: Annotated[float, Uniform(-4, -1)] = Field(
        -3.0, description="where z starts: everything runs at first"
    )
    side_lr_scale: float = Field(
        10.0, gt=0, description="learning rate of the scores, times the ResNet's; 1 if published"
    )


def pooled_score(width: int) -> nn.Module:
    """Return the score of a state of this width: z (N, 1), without its constant start."""
    linear = nn.Linear(width, 1)
    nn.init.kaiming_normal_(linear.weight)
    nn.init.zeros_(linear.bias)
    norm = nn.BatchNorm1d(width, eps=_BN_EPS)
    return nn.Sequential(Pool(), nn.Flatten(), norm, nn.LeakyReLU(_SLOPE), linear)


class Act(Method[ActConfig]):
    """Adaptive computation time: images halt, stage by stage."""

    name = "act"
    reference = Reference(
        title="Adaptive Computation Time for Recurrent Neural Networks (for residual networks: "
        "Figurnov et al. 2017, arXiv 1612.02297)",
        authors="Graves",
        year=2016,
        url="https://arxiv.org/abs/1603.08983",
    )
    tags = Tags(decision="halting", reconstructed=("side_lr_scale",))

    def variant(self, config: ActConfig) -> str:
        return f"tau={config.tau:g}"

    def published_epochs(self, config: ActConfig) -> int:
        return _PUBLISHED_EPOCHS

    def build(self, backbone: Backbone, config: ActConfig) -> DynamicNet:
        policy = ImageHalting(backbone, pooled_score, eps=config.eps, bias=config.halting_bias)
        return HaltingResNet(backbone, policy)

    def phases(self, config: ActConfig, budget: Budget) -> Sequence[Phase]:
        side = 1.0 if budget.published else config.side_lr_scale
        schedule = budget.schedule(published=_PUBLISHED)
        return [PonderCost("pondered", tau=config.tau, side_lr_scale=side, **schedule)]
