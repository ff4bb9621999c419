"""SACT: ACT for every position of the feature maps on its own.

Reference: Figurnov, Collins, Zhu, Zhang, Huang, Vetrov, Salakhutdinov, "Spatially Adaptive
Computation Time for Residual Networks", CVPR 2017, arXiv 1612.02297, and the authors' code.

How it decides. As in ACT, but each position of a stage has its own halting score. Behind each block
but the last of a stage, a 3x3 convolution on LeakyReLU(BN(x)) gives a map, a linear layer on
LeakyReLU(BN(pool(x))) one number for the whole image; h = sigmoid(map + number + bias).

    N = min{ n : h_1 + ... + h_n >= 1 - eps }, R = 1 - (h_1 + ... + h_(N-1)), at each position
    stage output = p_1 x_1 + ... + p_N x_N,   p_l = h_l for l < N,   p_N = R

What runs. The first block of a stage is dense. Later, a position that has halted keeps its state;
the others add their residual. The second convolution of a block runs at active positions, the
first at these and their eight neighbours, the score's convolution at active positions. All three
are counted so, and the skipping path computes just these.

How it learns.    L = CE + tau * sum over the stages of mean(N + R) over images and positions

The gradient of the ponder cost flows through R only. `tau` is the knob.

This port changes the method: the authors' blocks are pre-activation with leaky ReLU, so their
states are raw sums; the common backbone is post-activation and its states are never negative.

Published on CIFAR-10 (authors' Readme): ResNet-32, tau 0.01: 91.82 %, nFLOPs 0.598 with scores.
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
from bench.networks.positions import LocalScore, PositionHalting, PositionScore
from bench.phases import PonderCost

_PUBLISHED_EPOCHS = 256  # 100,000 steps
_PUBLISHED = OptimizerSpec(lr=0.1, weight_decay=2e-4, schedule="step", milestones=(0.6, 0.75, 0.9))
_SLOPE, _BN_EPS = 0.1, 1e-3


class SactConfig(MethodConfig):
    """Settings of SACT; all but `side_lr_scale` as in the authors' code for CIFAR-10."""

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


def position_score(width: int) -> PositionScore:
    """Return the score of a state (N, width, h, w): z (N, 1, h, w), without its constant start."""
    conv = nn.Conv2d(width, 1, 3, padding=1)
    linear = nn.Linear(width, 1, bias=False)
    for layer in (conv, linear):
        nn.init.kaiming_normal_(layer.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    features = nn.Sequential(nn.BatchNorm2d(width, eps=_BN_EPS), nn.LeakyReLU(_SLOPE))
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    norm = nn.BatchNorm1d(width, eps=_BN_EPS)
    whole = nn.Sequential(*pool, norm, nn.LeakyReLU(_SLOPE), linear)
    return PositionScore(LocalScore(features, conv), whole)


class Sact(Method[SactConfig]):
    """Spatially adaptive computation time: positions halt, stage by stage."""

    name = "sact"
    reference = Reference(
        title="Spatially Adaptive Computation Time for Residual Networks",
        authors="Figurnov, Collins, Zhu, Zhang, Huang, Vetrov, Salakhutdinov",
        year=2017,
        url="https://arxiv.org/abs/1612.02297",
    )
    tags = Tags(decision="halting", reconstructed=("side_lr_scale",))

    def variant(self, config: SactConfig) -> str:
        return f"tau={config.tau:g}"

    def published_epochs(self, config: SactConfig) -> int:
        return _PUBLISHED_EPOCHS

    def build(self, backbone: Backbone, config: SactConfig) -> DynamicNet:
        backbone.require_maps("sact")
        policy = PositionHalting(backbone, position_score, eps=config.eps, bias=config.halting_bias)
        return HaltingResNet(backbone, policy)

    def phases(self, config: SactConfig, budget: Budget) -> Sequence[Phase]:
        side = 1.0 if budget.published else config.side_lr_scale
        schedule = budget.schedule(published=_PUBLISHED)
        return [PonderCost("pondered", tau=config.tau, side_lr_scale=side, **schedule)]
