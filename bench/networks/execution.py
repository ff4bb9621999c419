"""The one loop over the blocks, in its two forms: masked and skipping.

Both take the same trunk and the same `Decisions` and must agree; methods never write their own.
Owns how a gate and a block combine (the `Merge` rules); knows no method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.errors import PluginError
from bench.networks.policy import Decisions, Gates
from bench.networks.states import States
from bench.networks.trunk import Block
from bench.networks.unit import RemovedResidual

_ANY_STATE = torch.zeros(1, 1, 1, 1)


class Merge(ABC):
    """What "skip" means at one block: how shortcut S, residual F and gate g combine.

    The rules agree bit for bit for hard gates wherever a block is settled; they differ elsewhere,
    as at shortcut B of a CIFAR ResNet, and in the gradient of the gate.
    """

    @abstractmethod
    def masked(self, block: Block, shortcut: Tensor, residual: Tensor, gate_n: Tensor) -> Tensor:
        """Combine for every image of the batch, up to `then`; differentiable in all three."""

    @abstractmethod
    def skipped(self, block: Block, shortcut: Tensor) -> Tensor:
        """Return what `then` of a block reads whose residual did not run; may be `shortcut`."""

    def keeps(self, block: Block) -> bool:
        """Whether the state of an image that skips `block` stays what it is."""
        return (
            isinstance(block.shortcut, nn.Identity)
            and isinstance(block.then, nn.Identity)
            and self.skipped(block, _ANY_STATE) is _ANY_STATE
        )


class GateResidual(Merge):
    """y = after(S + g F): ConvNet-AIG, DynConv, and SGAD as reconstructed."""

    def masked(self, block: Block, shortcut: Tensor, residual: Tensor, gate_n: Tensor) -> Tensor:
        out: Tensor = block.after(shortcut + per_image(gate_n, residual) * residual)
        return out

    def skipped(self, block: Block, shortcut: Tensor) -> Tensor:
        # A copy of a non-negative state through ReLU would cost a pass over memory for nothing.
        if block.settled:
            return shortcut
        # What an identity gives is still the state of the block before; `after` may work in place.
        own = isinstance(block.shortcut, nn.Identity)
        out: Tensor = block.after(shortcut.clone() if own else shortcut)
        return out


class GateOutput(Merge):
    """y = g after(S + F) + (1 - g) S: SkipNet and BlockDrop; no `after` on the skipped path."""

    def masked(self, block: Block, shortcut: Tensor, residual: Tensor, gate_n: Tensor) -> Tensor:
        gate = per_image(gate_n, residual)
        out: Tensor = gate * block.after(shortcut + residual) + (1 - gate) * shortcut
        return out

    def skipped(self, block: Block, shortcut: Tensor) -> Tensor:
        return shortcut


def per_image(values_n: Tensor, like: Tensor) -> Tensor:
    """Return one number per image (N,) in the shape that multiplies states such as `like`."""
    return values_n.view(-1, *(1,) * (like.ndim - 1))


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
            h_nchw = skipped(block, h_nchw, merge)
            columns.append(h_nchw.new_zeros(h_nchw.shape[0], dtype=torch.float32))
        elif gate is None:
            h_nchw = block(h_nchw)
            columns.append(h_nchw.new_ones(h_nchw.shape[0], dtype=torch.float32))
        else:
            _require_one_per_image(gate, index)
            shortcut, residual = block.shortcut(h_nchw), block.residual(h_nchw)
            h_nchw = block.then(merge.masked(block, shortcut, residual, gate))
            columns.append(gate.detach().float())
    if not columns:  # a network without residual blocks, which is only ever run whole
        return h_nchw, h_nchw.new_ones(h_nchw.shape[0], 0)
    return h_nchw, torch.stack(columns, dim=1)


def _require_one_per_image(gate: Tensor, index: int) -> None:
    if gate.ndim != 1:
        raise PluginError(
            f"The gate of block {index} has shape {tuple(gate.shape)}, not (N,).",
            hint="A gate is one number per image: flatten(), or a squeeze of the last axis.",
        )


def run_skipping(
    blocks: Sequence[Block], h_nchw: Tensor, *, decisions: Decisions, merge: Merge
) -> tuple[Tensor, list[Gates]]:
    """Run only the chosen blocks, each on the images that chose it.

    The state may be overwritten in place, so `h_nchw` must belong to the caller. Returns the last
    state (N, C, h, w) and, block by block, the N gates in {0, 1}.
    """
    states = States(h_nchw)
    all_on, all_off = [1.0] * states.count, [0.0] * states.count
    columns: list[Gates] = []
    for index, block in enumerate(blocks):
        gates = decisions.hard_gates(index, states) or all_on
        if isinstance(block.residual, RemovedResidual):
            gates = all_off
        columns.append(gates)
        if all(gates):
            states.put_all(block(states.all()))
        elif any(gates):
            _run_chosen(block, states, gates, merge=merge)
        elif not merge.keeps(block):
            states.put_all(skipped(block, states.all(), merge))
    return states.all(), columns


def _run_chosen(block: Block, states: States, gates: Gates, *, merge: Merge) -> None:
    chosen = [row for row, gate in enumerate(gates) if gate]
    ran = chosen, block(states.of(chosen))
    if merge.keeps(block):
        states.put(ran)
        return
    others = [row for row, gate in enumerate(gates) if not gate]
    states.put(ran, (others, skipped(block, states.of(others), merge)))


def skipped(block: Block, h_nchw: Tensor, merge: Merge) -> Tensor:
    """Return what becomes of the states (N, C, h, w) of images that skip `block`."""
    out: Tensor = block.then(merge.skipped(block, block.shortcut(h_nchw)))
    return out
