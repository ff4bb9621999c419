"""What a halting method brings: a score behind every unit of a stage but the last.

A stage is the run of blocks at one resolution; its blocks are the units of adaptive computation
time. Owns who is scored and what that costs; images halt here, positions in positions.py. The loop
is halting.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.networks.resnet import WIDTHS, Backbone, Block
from bench.networks.unit import RemovedResidual, Unit


@dataclass(frozen=True, slots=True)
class Stage:
    """The blocks of one stage, by index, and the shape (C, h, w) behind each of them."""

    blocks: range
    shape: tuple[int, int, int]


def stages_of(backbone: Backbone) -> tuple[Stage, ...]:
    """Return the stages of a backbone; borders halve each side, rounding up."""
    per_stage = backbone.num_blocks // len(WIDTHS)
    height, width = backbone.image_shape[1:]
    stages: list[Stage] = []
    for number, channels in enumerate(WIDTHS):
        first = number * per_stage
        stages.append(Stage(range(first, first + per_stage), (channels, height, width)))
        height, width = -(-height // 2), -(-width // 2)
    return tuple(stages)


class HaltingPolicy(nn.Module, ABC):
    """Scores the state behind a block: h = sigmoid(z + bias), the weight given to that state.

    `bias` is where the scores start. It is not a parameter, so that weight decay, which shrinks
    what a module learns on top of it, does not by itself make everything halt.
    """

    def __init__(
        self, backbone: Backbone, make: Callable[[int], nn.Module], *, eps: float, bias: float
    ) -> None:
        super().__init__()
        self.eps = eps
        self.bias = bias
        self.stages = stages_of(backbone)
        # The last block of a stage needs no score: whatever is left goes to its state.
        self.scores = nn.ModuleDict(
            {str(b): make(stage.shape[0]) for stage in self.stages for b in stage.blocks[:-1]}
        )

    @abstractmethod
    def ones(self, state_nchw: Tensor) -> Tensor:
        """Return a one for everything that can halt where states have this shape."""

    @abstractmethod
    def score(self, block: int, state_nchw: Tensor) -> Tensor:
        """Return h in [0, 1] behind `block`, in the shape of `ones`; differentiable."""

    @abstractmethod
    def advance(self, block: Block, state_nchw: Tensor, active: Tensor) -> Tensor:
        """Run `block` for everybody and mask; differentiable."""

    @abstractmethod
    def score_active(self, block: int, state_nchw: Tensor, active: Tensor) -> Tensor:
        """Compute `score` only where `active`; elsewhere the values mean nothing."""

    @abstractmethod
    def advance_active(self, block: Block, state_nchw: Tensor, active: Tensor) -> Tensor:
        """Run `block` only where `active`; may overwrite the state."""

    @abstractmethod
    def shares(self, block: int, active: Tensor) -> Mapping[str, Tensor]:
        """Return by unit which share (N,) of `block` and of its score runs for `active`."""

    @abstractmethod
    def score_units(self, block: int) -> Sequence[tuple[str, nn.Module]]:
        """Return the parts of the score behind `block` by name, each fed with the state."""

    @abstractmethod
    def remove(self, block: int) -> None:
        """Drop the score behind a block that never runs."""

    def is_scored(self, block: int) -> bool:
        """Tell whether there is a score behind `block`: not behind the last of a stage."""
        return str(block) in self.scores

    def units(self) -> Sequence[Unit]:
        """Return what deciding costs, as units of role `policy`."""
        return [
            Unit(name, module, stage.shape, b == stage.blocks[0], "policy")
            for stage in self.stages
            for b in stage.blocks[:-1]
            for name, module in self.score_units(b)
        ]


class ImageHalting(HaltingPolicy):
    """Whole images halt; `make(width)` returns a module from a state (N, C, h, w) to z (N, 1)."""

    def ones(self, state_nchw: Tensor) -> Tensor:
        return torch.ones(state_nchw.shape[0], 1, 1, 1, device=state_nchw.device)

    def score(self, block: int, state_nchw: Tensor) -> Tensor:
        z_n1 = self.scores[str(block)](state_nchw).float()
        return torch.sigmoid(z_n1 + self.bias).view(-1, 1, 1, 1)

    def advance(self, block: Block, state_nchw: Tensor, active: Tensor) -> Tensor:
        # Images that have halted run on as well: whatever becomes of them has weight 0.
        out: Tensor = block(state_nchw)
        return out

    def score_active(self, block: int, state_nchw: Tensor, active: Tensor) -> Tensor:
        return self.score(block, state_nchw)

    def advance_active(self, block: Block, state_nchw: Tensor, active: Tensor) -> Tensor:
        out: Tensor = block(state_nchw)
        return out

    def shares(self, block: int, active: Tensor) -> Mapping[str, Tensor]:
        runs_n = active.flatten().float()
        shares = {f"block{block}": runs_n}
        return shares | {f"score{block}": runs_n} if self.is_scored(block) else shares

    def score_units(self, block: int) -> Sequence[tuple[str, nn.Module]]:
        return [(f"score{block}", self.scores[str(block)])]

    def remove(self, block: int) -> None:
        if self.is_scored(block):
            self.scores[str(block)] = RemovedResidual()
