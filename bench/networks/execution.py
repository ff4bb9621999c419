"""The one loop over the blocks, in its two forms: masked and skipping.

Both take the same trunk and the same `Decisions` and must agree; methods never write their own.
Owns how a gate and a block combine (the `Merge` rules); knows no method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import PluginError
from bench.networks.policy import Decisions, Gates
from bench.networks.resnet import Block, Projection
from bench.networks.states import SelectiveBlock, States, WholeState, states_of
from bench.networks.unit import RemovedResidual

_ANY_STATE = torch.zeros(1, 1, 1, 1)
_ON, _OFF = [1.0], [0.0]


class Merge(ABC):
    """What "skip" means at one block: how shortcut S, residual F and gate g combine.

    The rules agree bit for bit for hard gates wherever S(x) >= 0 (identity and shortcut A);
    they differ at shortcut B and in the gradient of the gate.
    """

    @abstractmethod
    def masked(self, shortcut: Tensor, residual: Tensor, gate_n: Tensor) -> Tensor:
        """Combine for every image of the batch; differentiable in all three."""

    @abstractmethod
    def skipped(self, block: Block, shortcut: Tensor) -> Tensor:
        """Return the output of a block whose residual did not run; may be `shortcut` itself."""

    def keeps(self, block: Block) -> bool:
        """Whether the state of an image that skips `block` stays what it is."""
        return (
            isinstance(block.shortcut, nn.Identity)
            and self.skipped(block, _ANY_STATE) is _ANY_STATE
        )

    def clips(self, block: Block) -> bool | None:
        """Return whether images that skip `block` pass a ReLU; None if something else is done."""
        trial = torch.tensor([-1.0, 2.0]).view(1, 1, 1, 2)
        out = self.skipped(block, trial)
        if torch.equal(out, trial):
            return False
        return True if torch.equal(out, trial.relu()) else None


class GateResidual(Merge):
    """y = ReLU(S + g F): ConvNet-AIG, DynConv, and SGAD as reconstructed."""

    def masked(self, shortcut: Tensor, residual: Tensor, gate_n: Tensor) -> Tensor:
        return F.relu(shortcut + gate_n.view(-1, 1, 1, 1) * residual)

    def skipped(self, block: Block, shortcut: Tensor) -> Tensor:
        # A copy of a non-negative state through ReLU would cost a pass over memory for nothing.
        return F.relu(shortcut) if isinstance(block.shortcut, Projection) else shortcut


class GateOutput(Merge):
    """y = g ReLU(S + F) + (1 - g) S: SkipNet and BlockDrop; no ReLU on the skipped path."""

    def masked(self, shortcut: Tensor, residual: Tensor, gate_n: Tensor) -> Tensor:
        gate = gate_n.view(-1, 1, 1, 1)
        return gate * F.relu(shortcut + residual) + (1 - gate) * shortcut

    def skipped(self, block: Block, shortcut: Tensor) -> Tensor:
        return shortcut


def run_masked(
    blocks: Sequence[Block], h_nchw: Tensor, *, decisions: Decisions, merge: Merge
) -> tuple[Tensor, Tensor]:
    """Run every block and mask its result.

    Returns the last state (N, C, h, w) and the gates (N, B), detached.
    """
    columns: list[Tensor] = []
    for index, block in enumerate(blocks):
        gate = decisions.gate(index, h_nchw)
        if isinstance(block.residual, RemovedResidual):
            h_nchw = merge.skipped(block, block.shortcut(h_nchw))
            columns.append(h_nchw.new_zeros(h_nchw.shape[0], dtype=torch.float32))
        elif gate is None:
            h_nchw = block(h_nchw)
            columns.append(h_nchw.new_ones(h_nchw.shape[0], dtype=torch.float32))
        else:
            _require_one_per_image(gate, index)
            h_nchw = merge.masked(block.shortcut(h_nchw), block.residual(h_nchw), gate)
            columns.append(gate.detach().float())
    return h_nchw, torch.stack(columns, dim=1)


def _require_one_per_image(gate: Tensor, index: int) -> None:
    if gate.ndim != 1:
        raise PluginError(
            f"The gate of block {index} has shape {tuple(gate.shape)}, not (N,).",
            hint="A gate is one number per image: flatten(), or a squeeze of the last axis.",
        )


class Step(NamedTuple):
    """A block on the skipping path, and what is asked of it again and again.

    `removed`: it never runs. `keeps`: the state of an image that skips it stays what it is.
    `clips`: it passes a ReLU. `selects`: the block can be told which images run it.
    """

    block: Block
    removed: bool
    keeps: bool
    clips: bool
    selects: bool


def route_of(blocks: Sequence[Block], merge: Merge) -> list[Step]:
    """Return the steps of the skipping path; to be made anew when blocks change."""
    return [_step(block, merge) for block in blocks]


def _step(block: Block, merge: Merge) -> Step:
    keeps, clips = merge.keeps(block), merge.clips(block)
    identity = isinstance(block.shortcut, nn.Identity)
    selects = isinstance(block, SelectiveBlock) and clips is not None and keeps == identity
    removed = isinstance(block.residual, RemovedResidual)
    return Step(block, removed, keeps, bool(clips), selects)


def run_skipping(
    route: Sequence[Step], h_nchw: Tensor, *, decisions: Decisions, merge: Merge
) -> tuple[Tensor, list[Gates]]:
    """Run only the chosen blocks, each on the images that chose it; one image takes a plain branch.

    The state may be overwritten in place, so `h_nchw` must belong to the caller. Returns the last
    state (N, C, h, w) and, block by block, the N gates in {0, 1}.
    """
    if all(step.selects or step.removed for step in route):
        return _run_where_open(route, h_nchw, decisions=decisions, merge=merge)
    if len(h_nchw) == 1:
        return _run_one(route, h_nchw, decisions=decisions, merge=merge)
    states = states_of(h_nchw)
    all_on, all_off = [1.0] * states.count, [0.0] * states.count
    columns: list[Gates] = []
    for index, step in enumerate(route):
        gates = decisions.hard_gates(index, states) or all_on
        if step.removed:
            gates = all_off
        columns.append(gates)
        if all(gates):
            states.put_all(step.block(states.all()))
        elif any(gates):
            _run_chosen(step, states, gates, merge=merge)
        elif not step.keeps:
            states.put_all(skipped(step.block, states.all(), merge))
    return states.all(), columns


def _run_chosen(step: Step, states: States, gates: Gates, *, merge: Merge) -> None:
    chosen = [row for row, gate in enumerate(gates) if gate]
    ran = chosen, step.block(states.of(chosen))
    if step.keeps:
        states.put(ran)
        return
    others = [row for row, gate in enumerate(gates) if not gate]
    states.put(ran, (others, skipped(step.block, states.of(others), merge)))


def _run_one(
    route: Sequence[Step], h_nchw: Tensor, *, decisions: Decisions, merge: Merge
) -> tuple[Tensor, list[Gates]]:
    state = WholeState(h_nchw)
    columns: list[Gates] = []
    for index, step in enumerate(route):
        gates = decisions.hard_gates(index, state) or _ON
        if step.removed:
            gates = _OFF
        columns.append(gates)
        if gates[0]:
            state.put_all(step.block(state.h_nchw))
        elif not step.keeps:
            state.put_all(skipped(step.block, state.h_nchw, merge))
    return state.h_nchw, columns


def _run_where_open(
    route: Sequence[Step], h_nchw: Tensor, *, decisions: Decisions, merge: Merge
) -> tuple[Tensor, list[Gates]]:
    """The same where every block picks its images itself: nothing is gathered or joined."""
    states = WholeState(h_nchw)
    all_on_n = torch.ones(len(h_nchw), dtype=torch.bool)
    columns: list[Tensor] = []
    for index, step in enumerate(route):
        open_n = decisions.opens(index, states)
        if step.removed:
            open_n = ~all_on_n
            if not step.keeps:
                states.put_all(skipped(step.block, states.h_nchw, merge))
        else:
            assert isinstance(step.block, SelectiveBlock)
            open_n = all_on_n if open_n is None else open_n
            states.run_where(step.block, open_n, keeps=step.keeps, clips=step.clips)
        columns.append(open_n)
    return states.h_nchw, torch.stack(columns).float().tolist()


def skipped(block: Block, h_nchw: Tensor, merge: Merge) -> Tensor:
    """Return what becomes of the states (N, C, h, w) of images that skip `block`."""
    return merge.skipped(block, block.shortcut(h_nchw))
