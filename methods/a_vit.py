"""A-ViT: tokens of a vision transformer halt, each as soon as it has said enough.

Reference: Yin, Vahdat, Alvarez, Mallya, Kautz, Molchanov, "A-ViT: Adaptive Tokens for Efficient
Vision Transformer", CVPR 2022, arXiv 2112.07658, and the authors' code (NVlabs/A-ViT).

How it decides. ACT over tokens, the class token too. Behind each layer but the last, the halting
score of token k reads the first of its channels, without any parameter:

    h_l^k = sigmoid(gate_scale * x_l^k[0] - gate_center)
    N_k = min{ n : h_1^k + ... + h_n^k >= 1 - eps }, the last layer counts as h := 1
    R_k = 1 - (h_1^k + ... + h_(N-1)^k);   p_l = h_l for l < N,   p_N = R

A token that has halted runs no later layer and no other reads it: here it is dropped. The head
reads the weighted sum p_1 x_1 + ... + p_N x_N of the class token.

How it learns.    L = CE + ponder_weight * mean(N + R) + prior_weight * KL(target || H)

mean(N + R) is over images and tokens; `ponder_weight` is the knob. H are the mean scores of the
layers, over all images and tokens, divided by their sum; one that halted before adds 0. The target
is a Gaussian over the layers around `prior_depth`, in the paper layer 9 of 12, divided by its sum.

The released code differs in what is left out here: a slice that was to drop the class token from
the KL drops the first image; tokens that have halted stay in its mean, with states that no layer
should have; its target sums to 3.26 and the sum over 12 layers is divided by 12, so its KL has a
minimum of 0.32 and 0.27 of this weight; the last layer's score, which decides nothing, is in H.
There tokens are masked, none is dropped, and no cost is counted.

Published on ImageNet (Readme): DeiT-T 71.4 % at 0.8 G MACs, of 1.25; DeiT-S 78.8 % at 3.6 of 4.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.method import (
    Backbone,
    Batch,
    Budget,
    DynamicNet,
    LogUniform,
    LossTerms,
    Method,
    MethodConfig,
    OptimizerSpec,
    Phase,
    Reference,
    Tags,
    Uniform,
)
from bench.networks.halting import HaltingResNet
from bench.networks.tokens import TokenHalting

_PUBLISHED_EPOCHS, _PUBLISHED_BATCH = 100, 512
# The warm-up of five epochs is that of 50,000 images.
_PUBLISHED = OptimizerSpec(kind="adamw", lr=5e-4, weight_decay=0.05, warmup_steps=490)
_LOWEST = 0.01  # a share of the halting distribution; the released code clamps it


class AVitConfig(MethodConfig):
    """Settings of A-ViT; those that are not reconstructed are the Readme's for DeiT-T."""

    ponder_weight: Annotated[float, LogUniform(1e-4, 0.1)] = Field(
        5e-4, ge=0, description="weight of the ponder cost: the knob"
    )
    prior_weight: float = Field(1e-3, ge=0, description="weight of the KL of the halting scores")
    gate_scale: float = Field(10.0, gt=0, description="what the first channel is multiplied by")
    gate_center: Annotated[float, Uniform(5, 40)] = Field(
        10.0, description="what is subtracted then, so that all runs at first; 30, 75 published"
    )
    eps: float = Field(0.01, gt=0, lt=0.5, description="halt once the scores reach 1 - eps")
    prior_depth: float = Field(
        0.75, gt=0, le=1, description="share of the layers behind which most tokens should halt"
    )
    prior_width: float = Field(
        1 / 12, gt=0, description="deviation of that, as a share of the layers"
    )


class FirstChannel(nn.Module):
    """z (N, T, 1) of tokens (N, T, C): a multiple of their first channel."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, state_ntc: Tensor) -> Tensor:
        return self.scale * state_ntc[..., :1]


def target_of(layers: int, *, depth: float, width: float) -> Tensor:
    """Return the Gaussian over layers 1 to layers - 1 around depth * layers; it sums to 1."""
    away_l = torch.arange(1, layers) - depth * layers
    return torch.softmax(-0.5 * (away_l / (width * layers)) ** 2, dim=0)


def prior_loss(scores_l: Tensor, target_l: Tensor) -> Tensor:
    """Return KL(target || H), H the mean scores divided by their sum and kept off 0."""
    # The smallest of scores may all be 0 in float32.
    share_l = (scores_l / scores_l.sum().clamp(min=1e-30)).clamp(_LOWEST, 1 - _LOWEST)
    loss: Tensor = torch.special.xlogy(target_l, target_l / share_l).sum()
    return loss


class Halting(Phase):
    """Cross-entropy, the ponder cost and the KL of the halting scores, on every weight."""

    config: AVitConfig

    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        config, output = self.config, net(batch.x_nchw)
        parts = {
            "loss": F.cross_entropy(output.logits, batch.labels_n),
            "ponder": output.terms["ponder_ns"].mean(),
            "layers": output.terms["units_ns"].mean(),
        }
        total = parts["loss"] + config.ponder_weight * parts["ponder"]
        scores_l = output.terms["scores_nl"].mean(dim=0)
        if len(scores_l) > 1:
            depth, width = config.prior_depth, config.prior_width
            target_l = target_of(len(scores_l) + 1, depth=depth, width=width).to(scores_l)
            parts["prior"] = prior_loss(scores_l, target_l)
            total = total + config.prior_weight * parts["prior"]
        return LossTerms(total, parts, output.logits)


class AVit(Method[AVitConfig]):
    """Adaptive tokens: those of a vision transformer halt one by one."""

    name = "a_vit"
    reference = Reference(
        title="A-ViT: Adaptive Tokens for Efficient Vision Transformer",
        authors="Yin, Vahdat, Alvarez, Mallya, Kautz, Molchanov",
        year=2022,
        url="https://arxiv.org/abs/2112.07658",
    )
    tags = Tags(
        decision="halting",
        starts_from_dense=True,
        reconstructed=("gate_center", "prior_depth", "prior_width"),
    )

    def variant(self, config: AVitConfig) -> str:
        return f"ponder={config.ponder_weight:g}"

    def published_epochs(self, config: AVitConfig) -> int:
        return _PUBLISHED_EPOCHS

    def build(self, backbone: Backbone, config: AVitConfig) -> DynamicNet:
        backbone.require_tokens("a_vit")
        policy = TokenHalting(
            backbone,
            lambda width: FirstChannel(config.gate_scale),
            eps=config.eps,
            bias=-config.gate_center,
        )
        return HaltingResNet(backbone, policy)

    def phases(self, config: AVitConfig, budget: Budget) -> Sequence[Phase]:
        schedule = budget.schedule(published=_PUBLISHED, published_batch=_PUBLISHED_BATCH)
        return [Halting("halting", config, **schedule)]
