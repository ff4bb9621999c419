"""DynConv: in front of every block, a mask says at which positions its residual runs.

Reference: Verelst, Tuytelaars, "Dynamic Convolutions: Exploiting Spatial Sparsity for Faster
Inference", CVPR 2020, arXiv 1912.03203, and the authors' code (thomasverelst/dynconv).

How it decides. A 3x3 convolution of the block's input to one channel, with the block's stride, plus
a linear layer on the input's mean: one score s for each position of the block's output. It runs
where s >= 0. Nothing is carried from block to block.

    y = ReLU(S(x) + m F(x))

What runs. The last convolution of F where the mask is set, each one before wherever the next one
reads: in a basic block the first runs on the mask grown by one position. Shortcuts, stem, head and
the scores always run. What is computed is exact, and the MACs are those of the positions counted.

How it learns. From scratch. Training adds the difference of two Gumbel draws to s and takes the
gradient of sigmoid(s) (straight through); in the last 20 % of the epochs nothing is drawn.

    L = CE + 10 [ (c - B)^2 + mean_b ( max(0, c_b - upper)^2 + max(0, lower - c_b)^2 ) ]

c_b is the share of the MACs of block b's residual that a batch runs, c that of all residuals
together. upper = 1 - a (1 - B) and lower = a B with a = cos^2(pi/2 t) and t from 0 to 1 over the
first third: every block starts bound to the budget and is then set free. The grown mask is a
comparison, so the first convolution's part of c has no gradient. B is the knob: a share of what is
gated, for a batch; not of the whole network, and not for each image.

Published on CIFAR-10 (authors' Readme): ResNet-32 with shortcut B, B = 0.7: 93.58 %, 55.4 million
MACs, of which the residuals are 0.78 of theirs.
"""

from __future__ import annotations

import math
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
    Unit,
)
from bench.networks.execution import GateResidual
from bench.networks.gated import GatedResNet
from bench.networks.local import local_residuals
from bench.networks.policy import BlockByBlock, Policy, straight_through
from bench.networks.trunk import pool

_PUBLISHED_EPOCHS, _PUBLISHED_BATCH = 350, 256
_PUBLISHED = OptimizerSpec(
    lr=0.1, weight_decay=5e-4, schedule="step", milestones=(150 / 350, 250 / 350)
)


class DynConvConfig(MethodConfig):
    """Settings of DynConv; the defaults are those of the authors' code for CIFAR-10."""

    budget: Annotated[float, Uniform(0.2, 0.9)] = Field(
        0.7, gt=0, lt=1, description="B, the share of the residuals' MACs asked for: the knob"
    )
    budget_weight: Annotated[float, LogUniform(1, 100)] = Field(
        10.0, ge=0, description="weight of both budget losses"
    )
    bound_share: float = Field(
        0.33, gt=0, le=1, description="share of training until each block is free of the budget"
    )
    noisy_share: float = Field(
        0.8, ge=0, le=1, description="share of training in which masks are drawn"
    )


class PositionGate(nn.Module):
    """The two parts of a score: `local`, a map, and `whole`, one number for the image."""

    def __init__(self, width: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.local = nn.Conv2d(width, 1, 3, stride=stride, padding=1)
        self.whole = nn.Linear(width, 1)
        std = math.sqrt(2 / 9)  # as all convolutions of the authors' ResNets, by what goes out
        nn.init.normal_(self.local.weight, std=std)

    def forward(self, x_nchw: Tensor) -> Tensor:
        """Return s (N, 1, h, w) of the input (N, C, H, W) of a block."""
        s_n1hw: Tensor = self.local(x_nchw) + self.whole(pool(x_nchw))[:, :, None, None]
        return s_n1hw


def drawn_mask(s_n1hw: Tensor) -> Tensor:
    """Draw m in {0, 1} at each position: whether s and a logistic draw add up to 0 or more."""
    gumbel = -torch.empty(2, *s_n1hw.shape, device=s_n1hw.device).exponential_().log()
    return rounded_mask(s_n1hw + gumbel[0] - gumbel[1])


def rounded_mask(s_n1hw: Tensor) -> Tensor:
    """Return m in {0, 1}, 1 where s >= 0, with the gradient of sigmoid(s)."""
    return straight_through(s_n1hw >= 0, torch.sigmoid(s_n1hw))


class DynConvGates(Policy):
    """One `PositionGate` for each block; where `noisy`, training draws the masks."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__([False] * backbone.num_blocks)
        residuals = local_residuals(backbone, "dynconv")
        self.noisy = True
        self.shapes = backbone.input_shapes
        self.gates = nn.ModuleList(
            PositionGate(shape[0], residual.stride)
            for residual, shape in zip(residuals, self.shapes, strict=True)
        )
        pairs = zip(residuals, self.shapes, strict=True)
        macs_b = torch.tensor([float(residual.macs(shape[1:])) for residual, shape in pairs])
        # Made from the backbone: nothing that a state dict would have to carry.
        self.register_buffer("weights_b", macs_b / macs_b.sum(), persistent=False)

    weights_b: Tensor
    """The MACs of each residual, as a share of all."""

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> BlockByBlock:
        return BlockByBlock(self, self.mask)

    def mask(self, index: int, h_nchw: Tensor) -> Tensor:
        """Return m (N, 1, h, w) of block `index` from its input."""
        s_n1hw: Tensor = self.gates[index](h_nchw).float()
        if not self.training:
            return (s_n1hw >= 0).float()
        return drawn_mask(s_n1hw) if self.noisy else rounded_mask(s_n1hw)

    def units(self) -> Sequence[Unit]:
        found = []
        for b, (gate, shape) in enumerate(zip(self.gates, self.shapes, strict=True)):
            assert isinstance(gate, PositionGate)
            found.append(Unit(f"gate{b}", gate.local, shape, True, "policy"))
            found.append(Unit(f"gate{b}.whole", gate.whole, shape[:1], True, "policy"))
        return found


def bounds(budget: float, progress: float, *, bound_share: float) -> tuple[float, float]:
    """Return between which shares each block is held: the budget at first, then 0 and 1."""
    bound = math.cos(math.pi / 2 * min(1.0, progress / bound_share)) ** 2
    return bound * budget, 1 - bound * (1 - budget)


def budget_loss(
    shares_b: Tensor, weights_b: Tensor, *, budget: float, held: tuple[float, float]
) -> Tensor:
    """Return how far a batch is from its budget: of all blocks, and of each outside of `held`.

    `shares_b` (B,) are the shares of the blocks' MACs that ran.
    """
    lower, upper = held
    of_net = ((shares_b * weights_b).sum() - budget).square()
    beyond_b = (shares_b - upper).clamp(min=0).square() + (lower - shares_b).clamp(min=0).square()
    return of_net + beyond_b.mean()


class BudgetedMasks(Phase):
    """Cross-entropy and the budget losses, trunk and gates together."""

    config: DynConvConfig

    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        assert isinstance(net, GatedResNet) and isinstance(net.policy, DynConvGates)
        config, weights_b = self.config, net.policy.weights_b
        net.policy.noisy = progress < config.noisy_share
        output = net(batch.x_nchw)
        shares_b = output.terms["shares_nb"].mean(dim=0)
        held = bounds(config.budget, progress, bound_share=config.bound_share)
        parts = {
            "loss": F.cross_entropy(output.logits, batch.labels_n),
            "budget_loss": budget_loss(shares_b, weights_b, budget=config.budget, held=held),
        }
        total = parts["loss"] + config.budget_weight * parts["budget_loss"]
        share = (shares_b.detach() * weights_b).sum()
        return LossTerms(total, {**parts, "drop": 1 - share}, output.logits)


class DynConv(Method[DynConvConfig]):
    """Positions of every block run where a mask says so, held to a budget for each batch."""

    name = "dynconv"
    reference = Reference(
        title="Dynamic Convolutions: Exploiting Spatial Sparsity for Faster Inference",
        authors="Verelst, Tuytelaars",
        year=2020,
        url="https://arxiv.org/abs/1912.03203",
    )
    # Not `samples`: the last masks are not drawn, and norms see all positions of all images.
    tags = Tags(decision="per unit")

    def variant(self, config: DynConvConfig) -> str:
        return f"B={config.budget:g}"

    def published_epochs(self, config: DynConvConfig) -> int:
        return _PUBLISHED_EPOCHS

    def build(self, backbone: Backbone, config: DynConvConfig) -> DynamicNet:
        return GatedResNet(backbone, DynConvGates(backbone), merge=GateResidual())

    def phases(self, config: DynConvConfig, budget: Budget) -> Sequence[Phase]:
        schedule = budget.schedule(published=_PUBLISHED, published_batch=_PUBLISHED_BATCH)
        return [BudgetedMasks("masked", config, **schedule)]
