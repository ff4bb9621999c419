"""Stochastic depth: blocks dropped at random in training, all of them at test time. A control.

Reference: Huang, Sun, Liu, Sedra, Weinberger, "Deep Networks with Stochastic Depth", ECCV 2016,
arXiv 1603.09382, and the authors' code (yueatsprograms/Stochastic_Depth).

How it learns. Nothing is decided. Block l of L survives with probability p_l, which falls linearly
from the first to the last block, p_l = 1 - (l / L) (1 - p_L), p_L = 0.5; drawn once per mini-batch.
A dropped block is its shortcut. The loss is the cross-entropy.

How the scale is kept. A residual F that is there with probability p_l has the mean p_l F, so either
the test or training has to make up for the difference. The paper multiplies F by p_l at test time;
here F is divided by p_l in training, where it survives. Both fix the same mean, and both can
express the same networks, because p_l is a factor on the last batch norm of the block; what differs
is the rate at which that batch norm learns. Dividing leaves a plain ResNet at test time, bit for
bit, with nothing to fold into its weights.

What it is for. Methods that drop blocks in training are regularised by that alone. This is the same
regularisation at nFLOPs 1: "dynamic beats dense" means little where this beats dense by as much.

Published on CIFAR-10, ResNet-110: 94.75 % against 93.59 % of constant depth, the epoch chosen on
validation images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bench.method import (
    Backbone,
    Batch,
    Budget,
    DynamicNet,
    LossTerms,
    Method,
    MethodConfig,
    OptimizerSpec,
    Phase,
    Reference,
    Tags,
    Uniform,
)
from bench.networks.execution import GateResidual
from bench.networks.gated import GatedResNet

_PUBLISHED_EPOCHS, _PUBLISHED_BATCH = 500, 128
_PUBLISHED = OptimizerSpec(lr=0.1, weight_decay=1e-4, schedule="step", milestones=(0.5, 0.75))


class StochasticDepthConfig(MethodConfig):
    """Settings of stochastic depth; the defaults are the paper's."""

    last_survival: Annotated[float, Uniform(0.3, 0.9)] = Field(
        0.5, gt=0, le=1, description="p_L, of the last block"
    )
    drawn: Literal["per mini-batch", "per image"] = Field(
        "per mini-batch", description="which images lose a block together"
    )


def survival(num_blocks: int, *, last: float, device: torch.device | None = None) -> Tensor:
    """Return p (B,): falls linearly, by equal steps from 1 before the first block to `last`."""
    share_b = torch.arange(1, num_blocks + 1, device=device) / num_blocks
    return 1 - share_b * (1 - last)


def drawn_gates(p_b: Tensor, count: int, *, drawn: str) -> Tensor:
    """Return gates (N, B) of mean 1: 1 / p where a block survives, 0 where it is dropped."""
    draws = count if drawn == "per image" else 1
    survives = torch.bernoulli(p_b.expand(draws, -1))
    return (survives / p_b).expand(count, -1)


class RandomDepth(Phase):
    """Cross-entropy under randomly dropped blocks."""

    config: StochasticDepthConfig

    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        assert isinstance(net, GatedResNet)
        last, device = self.config.last_survival, batch.x_nchw.device
        p_b = survival(len(net.blocks), last=last, device=device)
        gates_nb = drawn_gates(p_b, len(batch), drawn=self.config.drawn)
        logits = net.forward_with(batch.x_nchw, gates_nb).logits
        total = F.cross_entropy(logits, batch.labels_n)
        dropped = (gates_nb == 0).float().mean()
        return LossTerms(total, {"loss": total, "dropped": dropped}, logits)


class StochasticDepth(Method[StochasticDepthConfig]):
    """The dense network, trained with randomly dropped blocks."""

    name = "stochastic_depth"
    version = 2
    reference = Reference(
        title="Deep Networks with Stochastic Depth",
        authors="Huang, Sun, Liu, Sedra, Weinberger",
        year=2016,
        url="https://arxiv.org/abs/1603.09382",
    )
    tags = Tags(decision="static", role="control", samples=True)

    def variant(self, config: StochasticDepthConfig) -> str:
        note = "" if config.drawn == "per mini-batch" else f" {config.drawn}"
        return f"p_L={config.last_survival:g}{note}"

    def published_epochs(self, config: StochasticDepthConfig) -> int:
        return _PUBLISHED_EPOCHS

    def build(self, backbone: Backbone, config: StochasticDepthConfig) -> DynamicNet:
        return GatedResNet(backbone, merge=GateResidual())

    def phases(self, config: StochasticDepthConfig, budget: Budget) -> Sequence[Phase]:
        schedule = budget.schedule(published=_PUBLISHED, published_batch=_PUBLISHED_BATCH)
        return [RandomDepth("random depth", config, **schedule)]
