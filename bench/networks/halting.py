"""The halting network: adaptive computation time inside each stage, masked and skipping.

Within a stage, every block is a unit. Behind each unit but the last a score says how much weight
its state gets; once the weights given reach 1, the image (or the position) halts, and the stage
returns the weighted sum of the states. The arithmetic is pondering.py; who halts and how a unit
runs for those still active is a HaltingPolicy. Owns the two loops and the trace.

The published networks have pre-activation units; this trunk is the common post-activation one
(ReLU behind the sum), so states are never negative. That changes the method.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.networks.gated import trunk_units
from bench.networks.halting_policy import HaltingPolicy
from bench.networks.pondering import Pondering, Remainder
from bench.networks.trunk import Backbone, Block, Stage, Trunk, blocks_of
from bench.networks.unit import Branch, DynamicNet, Output, RemovedResidual, Unit

Score = Callable[[int, Tensor], Tensor]


class Going(NamedTuple):
    """One image in a stage: behind which block, its state, the sum so far, what is left to give."""

    block: int
    state: Tensor
    total: Tensor
    left: Remainder


class HaltingResNet(DynamicNet):
    """A trunk whose stages end early, per image or per position, where the scores say so.

    `Output.terms` of the masked path: `ponder_ns` (N, S), the ponder cost N + R of each stage with
    gradient, and `units_ns` (N, S), the count N alone; both are means over positions.
    """

    always_on_u: Tensor

    def __init__(self, backbone: Backbone, policy: HaltingPolicy) -> None:
        super().__init__()
        self.backbone = backbone
        self.trunk: Trunk = backbone.build()
        self.policy = policy
        policy.check(self.blocks, backbone.name)
        self.training_only = nn.ModuleDict()
        units = self.units()
        # Kept: describing the units of a ResNet-110 takes longer than skipping all of them.
        self.columns = {unit.name: column for column, unit in enumerate(units)}
        always_on_u = torch.tensor([float(unit.always_on) for unit in units])
        self.register_buffer("always_on_u", always_on_u, persistent=False)

    @property
    def blocks(self) -> list[Block]:
        return blocks_of(self.trunk)

    def units(self) -> Sequence[Unit]:
        """Stem, blocks (the first of each stage always runs), shortcuts, head, scores."""
        first = {stage.blocks[0] for stage in self.policy.stages}
        fixed = [b in first for b in range(self.backbone.num_blocks)]
        return [*trunk_units(self.trunk, self.backbone, always_on=fixed), *self.policy.units()]

    def forward(self, x_nchw: Tensor) -> Output:
        return self._masked(x_nchw, self.policy.score)

    def forward_all_on(self, x_nchw: Tensor) -> Output:
        return self._masked(x_nchw, lambda _, state: torch.zeros_like(self.policy.ones(state)))

    def forward_permuted(self, x_nchw: Tensor, order_n: Tensor) -> Output:
        own = self._scores(x_nchw)
        return self._masked(x_nchw, lambda block, _: own[block][order_n])

    @torch.no_grad()
    def position_costs(self, x_nchw: Tensor) -> Tensor | None:
        """Return the blocks that run at each pixel; a position of a later stage covers 4 or 16.

        Where sides do not halve evenly, the mean over an image is only nearly that of the trace.
        """
        if not self.policy.per_position:
            return None
        own = self._scores(x_nchw)
        total = x_nchw.new_zeros(len(x_nchw), 1, *x_nchw.shape[2:])
        for stage in self.policy.stages:
            ones = x_nchw.new_ones(len(x_nchw), 1, *stage.shape[1:])
            left, blocks_n1hw = Remainder(ones, eps=self.policy.eps), ones
            for b in stage.blocks[:-1]:
                if is_dead(self.blocks[b + 1]):
                    break
                left.weigh(own[b])
                blocks_n1hw = blocks_n1hw + self.policy.coverage(left.active)
            total += F.interpolate(blocks_n1hw, size=x_nchw.shape[2:], mode="nearest")
        return total[:, 0]

    def execute(self, x_nchw: Tensor) -> Output:
        state = self.trunk.stem(x_nchw)
        trace = self._new_trace(state)
        for stage in self.policy.stages:
            state = self._stage_skipping(stage, state, trace)
        return Output(self.trunk.head(state), trace.executed_nu, {})

    def execute_one(self, x_1chw: Tensor, branch: Branch) -> tuple[Tensor, Tensor]:
        state = self.trunk.stem(x_1chw)
        shares = dict(zip(self.columns, self.always_on_u.unbind(), strict=True))
        for stage in self.policy.stages:
            state = self.blocks[stage.blocks[0]](state)
            left = Remainder(self.policy.ones(state), eps=self.policy.eps)
            going = Going(stage.blocks[0], state, torch.zeros_like(state), left)
            state, *ran_u = self._go_on(stage, going, branch)
            shares |= zip(self._asked_behind(stage.blocks[0], stage), ran_u, strict=True)
        return self.trunk.head(state), torch.stack([s.view(1) for s in shares.values()], dim=1)

    def _go_on(self, stage: Stage, going: Going, branch: Branch) -> tuple[Tensor, ...]:
        """Weigh the state behind a block of one image, and run what follows if any is active.

        Returns the output of the stage and the shares of the units in `_asked_behind`.
        """
        block, state, total, left = going
        asked = self._asked_behind(block, stage)
        none = (state.new_zeros(1),) * len(asked)
        if block == stage.blocks[-1]:
            return (total + left.finish() * state, *none)
        total = total + left.weigh(self.policy.score(block, state)) * state
        if is_dead(self.blocks[block + 1]):
            return (total + left.finish() * state, *none)
        active, rest = left.active, left.left

        def advance() -> tuple[Tensor, ...]:
            shares = self.policy.shares(block + 1, active)
            after = self.policy.advance(self.blocks[block + 1], state, active)
            behind = Going(block + 1, after, total, Remainder(rest, eps=self.policy.eps))
            stage_out, *later = self._go_on(stage, behind, branch)
            own = [shares[name] for name in asked if name in shares]
            return (stage_out, *own, *later)

        return branch(active.any(), advance, lambda: (total, *none))

    def _asked_behind(self, block: int, stage: Stage) -> list[str]:
        """Return the units behind a block of a stage that run only if somebody is active."""
        found: list[str] = []
        for b in range(block + 1, stage.blocks.stop):
            names = [f"block{b}"]
            if self.policy.is_scored(b):
                names += [name for name, _ in self.policy.score_units(b)]
            found += names
        return found

    def inference_net(self, *, dead_blocks: frozenset[str] = frozenset()) -> DynamicNet:
        """Return a copy without training-only modules, dead blocks and the scores behind them.

        Where a block is dead, everything halts before it, also in an image not seen before.
        """
        net = copy.deepcopy(self)
        net.training_only = nn.ModuleDict()
        for b, block in enumerate(net.blocks):
            if f"block{b}" in dead_blocks:
                block.register_module("residual", RemovedResidual())
                net.policy.remove(b)
        return net

    def _scores(self, x_nchw: Tensor) -> dict[int, Tensor]:
        """Return the scores behind the blocks, by block: all decisions are functions of them."""
        own: dict[int, Tensor] = {}

        def noted(block: int, state_nchw: Tensor) -> Tensor:
            own[block] = self.policy.score(block, state_nchw)
            return own[block]

        self._masked(x_nchw, noted)
        return own

    def _masked(self, x_nchw: Tensor, score: Score) -> Output:
        state = self.trunk.stem(x_nchw)
        trace = self._new_trace(state)
        stages: list[Pondering] = []
        for stage in self.policy.stages:
            state, pondering = self._stage_masked(stage, state, score, trace)
            stages.append(pondering)
        terms = {
            "ponder_ns": torch.stack([s.cost.flatten(1).mean(dim=1) for s in stages], dim=1),
            "units_ns": torch.stack([s.units.flatten(1).mean(dim=1) for s in stages], dim=1),
        }
        return Output(self.trunk.head(state), trace.executed_nu, terms)

    def _stage_masked(
        self, stage: Stage, h_nchw: Tensor, score: Score, trace: _Trace
    ) -> tuple[Tensor, Pondering]:
        blocks = self.blocks
        state = blocks[stage.blocks[0]](h_nchw)
        pondering = Pondering(self.policy.ones(state), eps=self.policy.eps)
        total = torch.zeros_like(state)
        for b in stage.blocks[:-1]:
            total = total + pondering.weigh(score(b, state)) * state
            if is_dead(blocks[b + 1]):
                break
            active = pondering.active
            trace.record(self.policy.shares(b + 1, active))
            state = self.policy.advance(blocks[b + 1], state, active)
        return total + pondering.finish() * state, pondering

    def _stage_skipping(self, stage: Stage, h_nchw: Tensor, trace: _Trace) -> Tensor:
        """Run a stage where something is active; an image that has halted leaves the batch."""
        state: Tensor = self.blocks[stage.blocks[0]](h_nchw)
        left = Remainder(self.policy.ones(state), eps=self.policy.eps)
        rows = torch.arange(len(state), device=state.device)
        result = total = torch.zeros_like(state)
        for b in stage.blocks[:-1]:
            scores = self.policy.score_active(b, state, left.active)
            total = total + left.weigh(scores) * state
            if is_dead(self.blocks[b + 1]):
                break
            stays_n = left.active.flatten(1).any(dim=1)
            if not stays_n.all():
                result[rows] = total
                rows, state, total = rows[stays_n], state[stays_n], total[stays_n]
                left.keep(stays_n)
            if len(rows) == 0:
                return result
            trace.record(self.policy.shares(b + 1, left.active), rows)
            state = self.policy.advance_active(self.blocks[b + 1], state, left.active)
        total = total + left.finish() * state
        if len(rows) == len(result):
            return total
        result[rows] = total
        return result

    def _new_trace(self, state_nchw: Tensor) -> _Trace:
        return _Trace(self.columns, self.always_on_u.float().repeat(state_nchw.shape[0], 1))


class _Trace:
    """The columns of one batch: units that always run hold a one, all others what is recorded."""

    def __init__(self, columns: Mapping[str, int], executed_nu: Tensor) -> None:
        self.columns = columns
        self.executed_nu = executed_nu

    def record(self, shares: Mapping[str, Tensor], rows: Tensor | slice = slice(None)) -> None:
        """Write the shares (n,) of some units, for some of the images."""
        # One by one: a list of columns would have to travel to the device.
        for name, share_n in shares.items():
            self.executed_nu[rows, self.columns[name]] = share_n


def is_dead(block: Block) -> bool:
    """Tell whether the block was removed: everything halts before it."""
    return isinstance(block.residual, RemovedResidual)
