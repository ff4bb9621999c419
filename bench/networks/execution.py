"""The one loop over the blocks, and its steps: masked; skipping and branching, which really skip.

All take the same trunk and the same `Decisions` and must agree; methods never write their own.
Owns how a gate and a block combine (the `Merge` rules); knows no method. A gate is one number for
each image, or a mask of its positions (local.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bench.errors import PluginError
from bench.networks.local import LocalResidual, places_of
from bench.networks.policy import Decisions
from bench.networks.splitting import split
from bench.networks.trunk import Block
from bench.networks.unit import Branch

BlockStep = Callable[[Block, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From a block, its states and its gates, (N,) or (N, 1, h, w), to the states behind it and which
share of its residual ran, (N,)."""


class Merge(ABC):
    """What "skip" means at one block: how shortcut S, residual F and gate g combine.

    The rules agree bit for bit for hard gates wherever a block is settled; they differ elsewhere,
    as at shortcut B of a CIFAR ResNet, and in the gradient of the gate.
    """

    @abstractmethod
    def masked(self, block: Block, shortcut: Tensor, residual: Tensor, gate: Tensor) -> Tensor:
        """Combine for every image of the batch, up to `then`; differentiable in all three.

        `gate` is (N,), or (N, 1, h, w) with one number for each position.
        """

    @abstractmethod
    def skipped(self, block: Block, shortcut: Tensor) -> Tensor:
        """Return what `then` of a block reads whose residual did not run; may be `shortcut`."""


class GateResidual(Merge):
    """y = after(S + g F): ConvNet-AIG, DynConv, and SGAD as reconstructed."""

    def masked(self, block: Block, shortcut: Tensor, residual: Tensor, gate: Tensor) -> Tensor:
        out: Tensor = block.after(shortcut + per_image(gate, residual) * residual)
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

    def masked(self, block: Block, shortcut: Tensor, residual: Tensor, gate: Tensor) -> Tensor:
        gate = per_image(gate, residual)
        out: Tensor = gate * block.after(shortcut + residual) + (1 - gate) * shortcut
        return out

    def skipped(self, block: Block, shortcut: Tensor) -> Tensor:
        return shortcut


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Return one number per image (N,) in the shape that multiplies states such as `like`; what has
    one for each position has that shape."""
    return values if values.ndim == like.ndim else values.view(-1, *(1,) * (like.ndim - 1))


def run_blocks(
    blocks: Sequence[Block], h: Tensor, *, decisions: Decisions, merge: Merge, step: BlockStep
) -> tuple[Tensor, Tensor]:
    """Run the blocks, those with a gate by `step`.

    Returns the last state (N, C, h, w) and the share of each block that ran (N, B), with gradient
    in the masked step.
    """
    every_n = h.new_ones(h.shape[0], dtype=torch.float32)
    columns: list[Tensor] = []
    for index, block in enumerate(blocks):
        gate, column_n = decisions.gate(index, h), every_n
        if block.is_removed:
            h, column_n = skipped(block, h, merge), torch.zeros_like(every_n)
        elif gate is None:
            h = block(h)
        else:
            _require_gate(gate, index)
            h, column_n = step(block, h, gate)
        columns.append(column_n)
    if not columns:  # a network without residual blocks, which is only ever run whole
        return h, every_n[:, None][:, :0]
    return h, torch.stack([column_n.to(h.device) for column_n in columns], dim=1)


def masked(merge: Merge) -> BlockStep:
    """Run the block for all images and mask its result."""

    def step(block: Block, h: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        shortcut, residual = block.shortcut(h), block.residual(h)
        out = block.then(merge.masked(block, shortcut, residual, gate))
        return out, _share(block, gate, h)

    return step


def skipping(merge: Merge) -> BlockStep:
    """Run the block in eager PyTorch for the images that chose it, or at the positions."""
    whole = branching(merge, split)

    def step(block: Block, h: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        if gate.ndim == 1:
            return whole(block, h, gate)
        local, size = LocalResidual(block), h.shape[2:]
        needed = local.needed(gate > 0.5, size)
        return at_positions(local, h, needed, merge), local.share(needed, size)

    return step


def branching(merge: Merge, branch: Branch) -> BlockStep:
    """Hand the decision to `branch`, with both sides."""

    def step(block: Block, h: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        def run(state: Tensor) -> tuple[Tensor]:
            return (block(state),)

        def skip(state: Tensor) -> tuple[Tensor]:
            return (skipped(block, state, merge),)

        # At positions up to `then`, which may look beyond one.
        def run_there(state: Tensor, shortcut: Tensor) -> tuple[Tensor]:
            return (block.after(shortcut + block.residual(state)),)

        def skip_there(_: Tensor, shortcut: Tensor) -> tuple[Tensor]:
            return (merge.skipped(block, shortcut.clone()),)

        opened = gate > 0.5
        if gate.ndim == 1:
            (out,) = branch(opened, run, skip, h)
        else:
            (joined,) = branch(opened, run_there, skip_there, h, block.shortcut(h))
            out = block.then(joined)
        return out, _share(block, opened, h)

    return step


def at_positions(local: LocalResidual, h: Tensor, needed: Sequence[Tensor], merge: Merge) -> Tensor:
    """Return what a block makes of a state (N, C, H, W), in eager PyTorch: run where the last of
    the masks `needed` is set, skipped elsewhere."""
    block, mask_n1hw = local.block, needed[-1]
    if mask_n1hw.all():
        whole: Tensor = block(h)
        return whole
    shortcut, places = block.shortcut(h), places_of(mask_n1hw)
    own_mc11 = shortcut.permute(0, 2, 3, 1)[places][:, :, None, None]
    ran_mc11 = block.after(own_mc11 + local.at(needed, h))
    # A copy: what is skipped may still be the state that the block was given.
    out_nhwc = merge.skipped(block, shortcut).permute(0, 2, 3, 1).clone()
    out_nhwc[places] = ran_mc11[:, :, 0, 0]
    out: Tensor = block.then(out_nhwc.permute(0, 3, 1, 2))
    return out


def _share(block: Block, gate: Tensor, h: Tensor) -> Tensor:
    """Return which share (N,) of the residual runs behind the state `h`."""
    if gate.ndim == 1:
        return gate.float()
    local, size = LocalResidual(block), h.shape[2:]
    return local.share(local.needed(gate, size), size)


def _require_gate(gate: Tensor, index: int) -> None:
    if gate.ndim != 1 and (gate.ndim != 4 or gate.shape[1] != 1):
        raise PluginError(
            f"The gate of block {index} has shape {tuple(gate.shape)}, not (N,).",
            hint="A gate is one number per image: flatten(), or a squeeze of the last axis; or one"
            " per position, (N, 1, h, w).",
        )


def skipped(block: Block, h_nchw: Tensor, merge: Merge) -> Tensor:
    """Return what becomes of the states (N, C, h, w) of images that skip `block`."""
    out: Tensor = block.then(merge.skipped(block, block.shortcut(h_nchw)))
    return out
