"""LearnedGates: a small layer before each block says, image by image, whether the block runs.

How it decides. The input of a block is averaged over its pixels; batch norm and a linear layer turn
the average into one logit z; the block runs if z >= 0. Gates are open at the start.

How it learns. Rounding passes the gradient of sigmoid(z) through, and blocks have a price:

    L = cross-entropy + cost * (share of the blocks that ran)
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.method import (
    Backbone,
    Batch,
    Budget,
    DynamicNet,
    LossTerms,
    Method,
    MethodConfig,
    Phase,
    Reference,
    Tags,
    Unit,
)
from bench.networks.gated import GatedResNet
from bench.networks.policy import BlockByBlock, Policy, straight_through
from bench.networks.trunk import pool


class LearnedGatesConfig(MethodConfig):
    cost: float = Field(0.5, ge=0, description="price of running all blocks, beside the loss")


class Gates(Policy):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__(always_on=[False] * backbone.num_blocks)
        self.widths = list(backbone.widths)
        self.layers = nn.ModuleList()
        for width in self.widths:
            last = nn.Linear(width, 1)
            nn.init.ones_(last.bias)
            self.layers.append(nn.Sequential(nn.BatchNorm1d(width), last))

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> BlockByBlock:
        return BlockByBlock(self, self.decide)

    def decide(self, index: int, h_nchw: Tensor) -> Tensor:
        z_n = self.layers[index](pool(h_nchw)).flatten()
        return straight_through(z_n >= 0, torch.sigmoid(z_n))

    def units(self) -> Sequence[Unit]:
        layers = enumerate(zip(self.layers, self.widths, strict=True))
        return [Unit(f"gate{b}", net, (width,), True, "policy") for b, (net, width) in layers]


class BlockCost(Phase):
    config: LearnedGatesConfig

    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        output = net(batch.x_nchw)
        loss, ran = F.cross_entropy(output.logits, batch.labels_n), output.terms["gates_ng"].mean()
        parts = {"loss": loss, "drop": 1 - ran.detach()}
        return LossTerms(loss + self.config.cost * ran, parts, output.logits)


class LearnedGates(Method[LearnedGatesConfig]):
    name = "learned_gates"
    contract = 1  # the version of skipbench's contract that this was written for
    reference = Reference(title="Title of the paper", authors="Authors", year=2026, url="")
    tags = Tags(decision="per unit", reconstructed=("cost",))

    def variant(self, config: LearnedGatesConfig) -> str:
        return f"cost={config.cost:g}"

    def published_epochs(self, config: LearnedGatesConfig) -> int:
        return 160  # what --recipe paper trains for

    def build(self, backbone: Backbone, config: LearnedGatesConfig) -> DynamicNet:
        return GatedResNet(backbone, Gates(backbone))

    def phases(self, config: LearnedGatesConfig, budget: Budget) -> Sequence[Phase]:
        return [BlockCost("train", config, **budget.schedule())]
