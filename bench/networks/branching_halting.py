"""A halting ResNet for one image as one graph: where the image halts, the stage ends.

The same arithmetic as pondering.py and the same loop as halting.py, as nested branches; it must
agree with them, which is checked before it is used. Images halt here; positions do not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.networks.halting import HaltingResNet
from bench.networks.halting_policy import ImageHalting
from bench.networks.resnet import Stage
from bench.networks.tracing import scripted, traced
from bench.networks.unit import DynamicNet, RemovedResidual


class Weigh(nn.Module):
    """Gives the state (1, C, h, w) behind a block its weight: the sum so far, and what is left."""

    def __init__(self, policy: ImageHalting, block: int) -> None:
        super().__init__()
        self.policy = policy
        self.block = block

    def forward(self, state: Tensor, total: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        score = self.policy.score(self.block, state)
        weight = torch.where(left - score <= self.policy.eps, left, score)
        return total + weight * state, left - weight


class Finish(nn.Module):
    """The end of a stage: whatever is left goes to the last state. No block runs behind it."""

    def forward(self, state: Tensor, total: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        return total + left * state, torch.zeros(1, dtype=torch.int64)


class WeighAndFinish(nn.Module):
    """The end of a stage whose next block was removed."""

    def __init__(self, weigh: Weigh) -> None:
        super().__init__()
        self.weigh = weigh
        self.finish = Finish()

    def forward(self, state: Tensor, total: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        total, left = self.weigh(state, total, left)
        out: tuple[Tensor, Tensor] = self.finish(state, total, left)
        return out


class GoOn(nn.Module):
    """Weighs a state; the next block, and all behind it, run only if something is left."""

    def __init__(self, weigh: Any, block: Any, rest: Any) -> None:
        super().__init__()
        self.weigh = weigh
        self.block = block
        self.rest = rest

    def forward(self, state: Tensor, total: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        total, left = self.weigh(state, total, left)
        ran = torch.zeros(1, dtype=torch.int64)
        if bool(left > 0):
            total, ran = self.rest(self.block(state), total, left)
            ran = ran + 1
        return total, ran


class Halting(nn.Module):
    """The whole network: logits (1, K) and the trace (1, U)."""

    def __init__(self, net: HaltingResNet, chains: list[Any]) -> None:
        super().__init__()
        self.net = net
        self.chains = nn.ModuleList(chains)
        self.register_buffer("fixed_1u", _always_on(net))
        for number, stage in enumerate(net.policy.stages):
            self.register_buffer(f"ran_ku{number}", _ran_by_count(net, stage))

    fixed_1u: Tensor

    def forward(self, x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        state, executed_1u = self.net.trunk.stem(x_nchw), self.fixed_1u
        for number, (stage, chain) in enumerate(
            zip(self.net.policy.stages, self.chains, strict=True)
        ):
            state = self.net.blocks[stage.blocks[0]](state)
            if stage.blocks[0] in self.net.policy.operators:
                state, ran = chain(state)
            else:
                state, ran = chain(state, torch.zeros_like(state), torch.ones(1, 1, 1, 1))
            executed_1u = executed_1u + self.get_buffer(f"ran_ku{number}")[ran]
        return self.net.trunk.head(state), executed_1u


def branching_halting(net: DynamicNet, probe_nchw: Tensor) -> nn.Module:
    """Return a network whose images halt, for one image; the end of each stage is a branch."""
    assert isinstance(net, HaltingResNet) and isinstance(net.policy, ImageHalting)
    policy, blocks = net.policy, net.blocks
    chains: list[Any] = []
    h_nchw = net.trunk.stem(probe_nchw[:1])
    for stage in policy.stages:
        h_nchw = blocks[stage.blocks[0]](h_nchw)
        if stage.blocks[0] in policy.operators:
            chains.append(policy.operators[stage.blocks[0]])
            continue
        # All blocks of a stage read and write states of one shape.
        example = (h_nchw, torch.zeros_like(h_nchw), torch.ones(1, 1, 1, 1))
        alive = [b for b in stage.blocks if not isinstance(blocks[b].residual, RemovedResidual)]
        removed = [b for b in stage.blocks if b not in alive]
        last = (removed[0] if removed else stage.blocks.stop) - 1
        chain: Any = traced(Finish(), *example)
        if removed:
            chain = traced(WeighAndFinish(Weigh(policy, last)), *example)
        for b in reversed(range(stage.blocks.start, last)):
            weigh = traced(Weigh(policy, b), *example)
            chain = scripted(GoOn(weigh, traced(blocks[b + 1], h_nchw), chain))
        chains.append(chain)
    return Halting(net, chains)


def _always_on(net: HaltingResNet) -> Tensor:
    return torch.tensor([[float(unit.always_on) for unit in net.units()]])


def _ran_by_count(net: HaltingResNet, stage: Stage) -> Tensor:
    """Return (K, U): what runs, beside what always does, if k blocks follow the stage's first."""
    names = [unit.name for unit in net.units()]
    ran_ku = torch.zeros(len(stage.blocks), len(names))
    for count in range(1, len(stage.blocks)):
        for b in stage.blocks[1 : count + 1]:
            for name in (f"block{b}", f"score{b}"):
                if name in names:
                    ran_ku[count, names.index(name)] = 1
    return ran_ku
