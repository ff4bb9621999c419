"""The one loop over the blocks, and its two steps: masked, and branching, which really skips.

Both take the same trunk and the same `Decisions` and must agree; methods never write their own.
Owns how a gate and a block combine (the `Merge` rules); knows no method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bench.errors import PluginError
from bench.networks.policy import Decisions
from bench.networks.trunk import Block
from bench.networks.unit import Branch, RemovedResidual

Step = Callable[[Block, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From a block, its states and its gates (N,) to the states behind it and what ran, (N,)."""


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


def run_blocks(
    blocks: Sequence[Block], h: Tensor, *, decisions: Decisions, merge: Merge, step: Step
) -> tuple[Tensor, Tensor]:
    """Run the blocks, those with a gate by `step`.

    Returns the last state (N, C, h, w) and the gates (N, B), detached.
    """
    every_n = h.new_ones(h.shape[0], dtype=torch.float32)
    columns: list[Tensor] = []
    for index, block in enumerate(blocks):
        gate_n, column_n = decisions.gate(index, h), every_n
        if isinstance(block.residual, RemovedResidual):
            h, column_n = skipped(block, h, merge), torch.zeros_like(every_n)
        elif gate_n is None:
            h = block(h)
        else:
            _require_one_per_image(gate_n, index)
            h, column_n = step(block, h, gate_n)
        columns.append(column_n)
    if not columns:  # a network without residual blocks, which is only ever run whole
        return h, every_n[:, None][:, :0]
    return h, torch.stack([column_n.to(h.device) for column_n in columns], dim=1)


def masked(merge: Merge) -> Step:
    """Run the block for all images and mask its result."""

    def step(block: Block, h: Tensor, gate_n: Tensor) -> tuple[Tensor, Tensor]:
        shortcut, residual = block.shortcut(h), block.residual(h)
        out = block.then(merge.masked(block, shortcut, residual, gate_n))
        return out, gate_n.detach().float()

    return step


def branching(merge: Merge, branch: Branch) -> Step:
    """Run the block for the images that chose it."""

    def step(block: Block, h: Tensor, gate_n: Tensor) -> tuple[Tensor, Tensor]:
        def run(state: Tensor) -> tuple[Tensor]:
            return (block(state),)

        def skip(state: Tensor) -> tuple[Tensor]:
            return (skipped(block, state, merge),)

        open_n = gate_n > 0.5
        (out,) = branch(open_n, run, skip, h)
        return out, open_n.float()

    return step


def _require_one_per_image(gate: Tensor, index: int) -> None:
    if gate.ndim != 1:
        raise PluginError(
            f"The gate of block {index} has shape {tuple(gate.shape)}, not (N,).",
            hint="A gate is one number per image: flatten(), or a squeeze of the last axis.",
        )


def skipped(block: Block, h_nchw: Tensor, merge: Merge) -> Tensor:
    """Return what becomes of the states (N, C, h, w) of images that skip `block`."""
    out: Tensor = block.then(merge.skipped(block, block.shortcut(h_nchw)))
    return out
