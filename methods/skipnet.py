"""SkipNet: a gate before each block reads the state and decides whether the block runs.

Reference: Wang, Yu, Dou, Darrell, Gonzalez, "SkipNet: Learning Dynamic Routing in Convolutional
Networks", ECCV 2018, arXiv 1711.09485, and the authors' code.

How it decides. The first block always runs. The gate of every other block, borders and the last one
included, reads what the block before has left (its output or, if it was skipped, its shortcut) and
gives p, the probability to run. Inference: the block runs if p >= 0.5; nothing is drawn. A skipped
block hands on its shortcut, without a ReLU. Three gates: two small convolutional nets per block
(FFGate-I, FFGate-II), or one LSTM for all blocks that reads the pooled state through a linear layer
per block and carries its own state from block to block (RNNGate, recommended). Gates run for every
image, also behind a skipped block: 15, 12 and 0.025 % of a network.

How it learns.

1. Supervised pre-training (SP): the decision is hard forward, its gradient that of p; the loss is
   the cross-entropy CE alone.
2. Hybrid reinforcement (HRL): gates are drawn, g ~ Bernoulli(p). CE teaches the trunk; REINFORCE
   teaches the gates, each by what came of it and of the gates after it (N gates, R_j = 1 - g_j):

       r_i = -[ beta CE - alpha/N sum_{j>=i} R_j ],   loss = CE - rl_weight sum_i r_i log p(g_i)

Drawn masks disturb batch statistics: released code was seen to collapse when HRL begins. So batch
norms keep the statistics of SP by default: inference does not draw, and HRL's steps are small. The
other remedy, dividing the log-odds by a temperature before HRL (0.05 in the ImageNet code), is off
as in the CIFAR code: gates that SP has decided would never be drawn otherwise, nor learn.

Published on CIFAR-10 (accuracy %, share of blocks run): SkipNet-38 92.75, 0.703; -74 92.77, 0.523;
-110 93.30, 0.495; their dense networks 92.50, 92.95, 93.60.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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
    ParameterGroup,
    Phase,
    Reference,
    Tags,
    Unit,
)
from bench.networks.execution import GateOutput
from bench.networks.gated import GatedResNet
from bench.networks.policy import BlockByBlock, Policy, straight_through
from bench.networks.trunk import pool
from bench.phases import trunk_and_rest

_HIDDEN = 10
_PUBLISHED_SP, _PUBLISHED_HRL = 164, 26
_PUBLISHED_SGD = OptimizerSpec(
    lr=0.1, schedule="step", milestones=(0.5, 0.75), warmup_steps=400, warmup_from=0.1
)
State = tuple[Tensor, Tensor]  # of the LSTM: (N, 10) twice
Step = tuple[Tensor, State | None]  # log-odds (N,) of one gate, and the state it leaves


class SkipNetConfig(MethodConfig):
    """Settings of SkipNet; the defaults are those of the authors' CIFAR code where it has them."""

    gate: Literal["rnn", "ff1", "ff2"] = Field("rnn", description="RNNGate, FFGate-I or -II")
    alpha: Annotated[float, LogUniform(0.3, 1.5)] = Field(
        0.5, ge=0, description="reward for skipping everything; 0.1 in the authors' code"
    )
    beta: float = Field(1.0, ge=0, description="weight of the cross-entropy in the returns")
    rl_weight: Annotated[float, LogUniform(1e-3, 0.1)] = Field(
        0.01, ge=0, description="weight of REINFORCE in HRL"
    )
    rl_batch: Literal["sum", "mean"] = Field("sum", description="REINFORCE over the batch")
    temperature: float = Field(1.0, gt=0, description="divides the log-odds before HRL")
    hrl_statistics: Literal["frozen", "updated"] = Field(
        "frozen", description="running statistics of batch norms during HRL"
    )
    hrl_lr: Annotated[float, LogUniform(1e-4, 1e-2)] = Field(
        1e-4, gt=0, description="SGD in HRL; published value"
    )
    hrl_lr_scaling: Literal["inverse", "none"] = Field(
        "inverse", description="when scaled down: keep lr times epochs of the gates as published"
    )
    hrl_share: float = Field(0.3, ge=0, lt=1, description="of the epochs, when scaled down")
    hrl_open: float | None = Field(
        0.8, gt=0, lt=1, description="when scaled down: p that gates are reset to before HRL"
    )
    gate_lr_scale: float = Field(
        10.0, gt=0, description="when scaled down: rate of the gates in HRL, beside the scaling"
    )
    gate_bias: float = Field(1.0, description="initial log-odds: all blocks run at the start")


class Gates(Policy):
    """One gate for every block but the first; subclasses say how log-odds are computed."""

    temperature: Tensor  # that the log-odds have been divided by
    reset: Tensor  # whether the gates were set to an equal p after SP

    def __init__(self, backbone: Backbone) -> None:
        super().__init__([True] + [False] * (backbone.num_blocks - 1))
        self.shapes, self.widths = backbone.input_shapes, backbone.widths
        self.drawn = False
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("reset", torch.zeros((), dtype=torch.bool))

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> GateByGate:
        return GateByGate(self)

    @abstractmethod
    def log_odds(self, index: int, h_nchw: Tensor, state: State | None) -> Step:
        """Return z (N,), p = sigmoid(z), of block `index`, and the state for the next gate."""

    @abstractmethod
    def gate_alone(self, index: int) -> nn.Module:
        """Return one gate as a module that takes its state (N, C, h, w)."""

    @abstractmethod
    def last_layers(self) -> Sequence[nn.Linear]:
        """Return the linear layers that z comes out of."""

    def units(self) -> Sequence[Unit]:
        # Always on: a gate runs for every image, also behind a block that was skipped.
        return [
            Unit(f"gate{b}", self.gate_alone(b), self.shapes[b], True, "policy") for b in self.gated
        ]

    def decide(self, z_n: Tensor) -> Tensor:
        """Return the gates (N,): 1[p >= 0.5], in training with the gradient of p, or drawn."""
        if not self.training:
            return (z_n >= 0).float()
        p_n = torch.sigmoid(z_n)
        if self.drawn:
            return torch.bernoulli(p_n.detach())
        return straight_through(z_n >= 0, p_n)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Draw the gates from their probabilities while this is open."""
        self.drawn = True
        try:
            yield
        finally:
            self.drawn = False

    @torch.no_grad()
    def open_to(self, p: float) -> None:
        """Let every gate be open with about probability `p`, once: they forget what they learned.

        Gates that SP has decided are hardly ever drawn otherwise, and then learn nothing.
        """
        if self.reset:
            return
        z = math.log(p / (1 - p))
        for layer in self.last_layers():
            nn.init.normal_(layer.weight, std=0.01)
            # Two logits, of skipping and running, or the log-odds alone.
            layer.bias.copy_(torch.tensor([z] if len(layer.bias) == 1 else [-z / 2, z / 2]))
        self.reset.fill_(True)

    @torch.no_grad()
    def set_temperature(self, temperature: float) -> None:
        """Divide log-odds, through the weights as the authors do; p >= 0.5 stays p >= 0.5."""
        factor = self.temperature / temperature
        for layer in self.last_layers():
            layer.weight.mul_(factor)
            layer.bias.mul_(factor)
        self.temperature.fill_(temperature)


class GateByGate(BlockByBlock):
    """The gates of one batch, each from the state its block is about to read."""

    def __init__(self, policy: Gates) -> None:
        super().__init__(policy, self.asked)
        self.policy = policy
        self.state: State | None = None
        self.z: list[Tensor] = []

    def asked(self, index: int, h_nchw: Tensor) -> Tensor:
        z_n, self.state = self.policy.log_odds(index, h_nchw, self.state)
        self.z.append(z_n)
        return self.policy.decide(z_n)

    def terms(self) -> Mapping[str, Tensor]:
        return {**super().terms(), "log_odds_ng": torch.stack(self.z, dim=1)}


class RecurrentGates(Gates):
    """RNNGate: a linear layer per block, one LSTM whose state is zero before each forward."""

    def __init__(self, backbone: Backbone, bias: float) -> None:
        super().__init__(backbone)
        embed = {str(b): nn.Linear(self.widths[b], _HIDDEN) for b in self.gated}
        for layer in embed.values():
            nn.init.normal_(layer.weight, std=math.sqrt(2 / _HIDDEN))
        self.embed = nn.ModuleDict(embed)
        self.cell = nn.LSTMCell(_HIDDEN, _HIDDEN)
        self.last = nn.Linear(_HIDDEN, 1)
        nn.init.constant_(self.last.bias, bias)

    def log_odds(self, index: int, h_nchw: Tensor, state: State | None) -> Step:
        return _recurrent_step(self.embed[str(index)], self.cell, self.last, h_nchw, state)

    def last_layers(self) -> Sequence[nn.Linear]:
        return [self.last]

    def gate_alone(self, index: int) -> nn.Module:
        return FirstStep(self.embed[str(index)], self.cell, self.last)


class FirstStep(nn.Module):
    """A recurrent gate alone, (N, C, h, w) -> (N,): what counting its MACs runs."""

    def __init__(self, embed: nn.Module, cell: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.embed, self.cell, self.last = embed, cell, last

    def forward(self, h_nchw: Tensor) -> Tensor:
        return _recurrent_step(self.embed, self.cell, self.last, h_nchw, None)[0]


def _recurrent_step(
    embed: nn.Module, cell: nn.Module, last: nn.Module, h_nchw: Tensor, state: State | None
) -> Step:
    """Embed the pooled state, feed the LSTM: z (N,) and the LSTM's new state."""
    hidden_nd, memory_nd = cell(embed(pool(h_nchw)), state)
    return last(hidden_nd).flatten().float(), (hidden_nd, memory_nd)


class FeedForwardGate(nn.Module):
    """FFGate-I (after halving: two convolutions) or -II (one); two logits. (N, C, h, w) -> (N,)."""

    def __init__(self, channels: int, kind: str, bias: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if kind == "ff1":
            # Rounding up only matters where the state is a single pixel.
            layers += [nn.MaxPool2d(2, ceil_mode=True), *_convolution(channels, stride=1)]
        self.features = nn.Sequential(*layers, *_convolution(channels, stride=2))
        self.last = nn.Linear(channels, 2)
        nn.init.normal_(self.last.weight, std=0.01)
        with torch.no_grad():
            self.last.bias.copy_(torch.tensor([-bias / 2, bias / 2]))
        self.to(memory_format=torch.channels_last)

    def forward(self, h_nchw: Tensor) -> Tensor:
        logits_n2: Tensor = self.last(self.features(h_nchw).mean(dim=(2, 3))).float()
        return logits_n2[:, 1] - logits_n2[:, 0]  # log-odds of a softmax over {skip, run}


class FeedForwardGates(Gates):
    """FFGate-I or -II: a small net of its own per block."""

    def __init__(self, backbone: Backbone, kind: str, bias: float) -> None:
        super().__init__(backbone)
        backbone.require_maps(f"The gate {kind}")
        self.nets = nn.ModuleDict(
            {str(b): FeedForwardGate(self.shapes[b][0], kind, bias) for b in self.gated}
        )

    def log_odds(self, index: int, h_nchw: Tensor, state: State | None) -> Step:
        return self.nets[str(index)](h_nchw), None

    def last_layers(self) -> Sequence[nn.Linear]:
        return [net.last for net in self.nets.values() if isinstance(net, FeedForwardGate)]

    def gate_alone(self, index: int) -> nn.Module:
        return self.nets[str(index)]


def _convolution(channels: int, *, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def returns(ce_n: Tensor, gates_ng: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Return r (N, G): -[ beta CE - alpha/G sum_{j>=i} (1 - g_j) ], each image by its own CE."""
    skipped_ng = 1 - gates_ng
    to_come_ng = skipped_ng.flip(1).cumsum(1).flip(1)
    return alpha / gates_ng.shape[1] * to_come_ng - beta * ce_n.view(-1, 1)


def reinforce(log_odds_ng: Tensor, gates_ng: Tensor, returns_ng: Tensor) -> Tensor:
    """Return (N,), minus sum_i r_i log p(g_i): descending it makes what paid likelier."""
    log_p_ng = -F.binary_cross_entropy_with_logits(log_odds_ng, gates_ng, reduction="none")
    return -(returns_ng.detach() * log_p_ng).sum(dim=1)


class Supervised(Phase):
    """SP: cross-entropy under hard gates that pass the gradient on."""

    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        output = net(batch.x_nchw)
        total = F.cross_entropy(output.logits, batch.labels_n)
        drop = 1 - output.terms["gates_ng"].detach().mean()
        return LossTerms(total, {"loss": total, "drop": drop}, output.logits)


class HybridReinforcement(Phase):
    """HRL: gates are drawn; cross-entropy for the trunk, REINFORCE for what leads to the gates.

    Where the schedule is not the published one, the gates are reset first and learn at a rate of
    their own; the trunk's is the published one in any case.
    """

    config: SkipNetConfig

    def __init__(self, config: SkipNetConfig, budget: Budget, *, epochs: int) -> None:
        sgd, size = OptimizerSpec(lr=config.hrl_lr, schedule="constant"), budget.batch_size
        super().__init__("hrl", config, epochs=epochs, batch_size=size, optimizer=sgd)
        self.gate_lr_scale, self.open_to = 1.0, None
        if not budget.published:
            self.gate_lr_scale, self.open_to = config.gate_lr_scale, config.hrl_open
            if config.hrl_lr_scaling == "inverse":
                self.gate_lr_scale *= _PUBLISHED_HRL / max(epochs, 1)

    def groups(self, net: DynamicNet) -> Sequence[ParameterGroup]:
        return trunk_and_rest(net, self.gate_lr_scale)

    def set_modes(self, net: DynamicNet) -> None:
        net.train()
        if self.config.hrl_statistics == "frozen":
            for module in net.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        # Before each epoch; what is set already is left as it is.
        gates = _gates_of(net)
        if self.open_to is not None:
            gates.open_to(self.open_to)
        gates.set_temperature(self.config.temperature)

    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        config = self.config
        with _gates_of(net).drawing():
            output = net(batch.x_nchw)
        gates_ng = output.terms["gates_ng"]
        ce_n = F.cross_entropy(output.logits.float(), batch.labels_n, reduction="none")
        returns_ng = returns(ce_n.detach(), gates_ng, alpha=config.alpha, beta=config.beta)
        learn_n = reinforce(output.terms["log_odds_ng"], gates_ng, returns_ng)
        learn = learn_n.sum() if config.rl_batch == "sum" else learn_n.mean()
        parts = {
            "loss": ce_n.mean(),
            "loss_policy": learn,
            "reward": returns_ng[:, 0].mean(),
            "drop": 1 - gates_ng.mean(),
        }
        return LossTerms(parts["loss"] + config.rl_weight * learn, parts, output.logits)


def _gates_of(net: DynamicNet) -> Gates:
    assert isinstance(net, GatedResNet) and isinstance(net.policy, Gates)
    return net.policy


class SkipNet(Method[SkipNetConfig]):
    """Blocks skipped one by one, by gates pre-trained with CE and refined by reinforcement."""

    name = "skipnet"
    version = 2
    reference = Reference(
        title="SkipNet: Learning Dynamic Routing in Convolutional Networks",
        authors="Wang, Yu, Dou, Darrell, Gonzalez",
        year=2018,
        url="https://arxiv.org/abs/1711.09485",
    )
    tags = Tags(
        decision="per unit",
        samples=True,
        reconstructed=(
            "hrl_statistics",
            "hrl_lr_scaling",
            "hrl_share",
            "hrl_open",
            "gate_lr_scale",
            "gate_bias",
        ),
    )

    def variant(self, config: SkipNetConfig) -> str:
        return f"{config.gate} alpha={config.alpha:g}"

    def published_epochs(self, config: SkipNetConfig) -> int:
        return _PUBLISHED_SP + _PUBLISHED_HRL

    def build(self, backbone: Backbone, config: SkipNetConfig) -> DynamicNet:
        gates: Gates = RecurrentGates(backbone, config.gate_bias)
        if config.gate != "rnn":
            gates = FeedForwardGates(backbone, config.gate, config.gate_bias)
        return GatedResNet(backbone, gates, merge=GateOutput())

    def phases(self, config: SkipNetConfig, budget: Budget) -> Sequence[Phase]:
        share = config.hrl_share
        if budget.published:
            share = _PUBLISHED_HRL / (_PUBLISHED_SP + _PUBLISHED_HRL)
        first = budget.share(1 - share)
        return [
            Supervised("sp", **budget.schedule(first, published=_PUBLISHED_SGD)),
            HybridReinforcement(config, budget, epochs=budget.epochs - first),
        ]
