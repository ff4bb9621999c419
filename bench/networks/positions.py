"""Positions halt one by one: the policy, and how its blocks run where skipping does not pay.

Where few positions are active, the path that skips computes exactly the positions whose MACs the
trace counts. Above a share that is measured on the machine (bench.measure.break_even) it may run a
block everywhere and mask the result: the same values and the same trace, for the trace says what
was needed, not what was run. Owns no loop (halting.py) and no method's score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.networks.halting_policy import Crowd, HaltingPolicy
from bench.networks.position_crowd import HowItRan, PositionCrowd, Rows, shares_of
from bench.networks.position_scores import LocalScore, PositionScore, fold_scores
from bench.networks.resnet import Backbone, Block, Stage
from bench.networks.unit import RemovedResidual

__all__ = ["LocalScore", "PositionHalting", "PositionScore", "dilated", "fold_scores", "kind_of"]


class PositionHalting(HaltingPolicy):
    """Positions halt; `make(width)` returns a PositionScore.

    The first block of a stage is dense. In a later one the second convolution runs at the active
    positions, the first at these and their eight neighbours; all others keep their state.

    `break_even` maps the kind of a block (`kind_of`) to the share of active positions from which
    on it runs everywhere and is masked; a kind that is not listed never does. None, the default:
    none does, and the MACs that run are those of the trace. `how_it_ran` tells of each block that
    halting could have stopped, and that ran in the last `execute`, how it ran.
    """

    per_position = True

    def __init__(
        self, backbone: Backbone, make: Callable[[int], nn.Module], *, eps: float, bias: float
    ) -> None:
        super().__init__(backbone, make, eps=eps, bias=bias)
        self.break_even: Mapping[str, float] | None = None
        self.how_it_ran: dict[int, HowItRan] = {}

    def ones(self, state_nchw: Tensor) -> Tensor:
        n, _, height, width = state_nchw.shape
        return torch.ones(n, 1, height, width, device=state_nchw.device)

    def score(self, block: int, state_nchw: Tensor) -> Tensor:
        z_n1hw = self.scores[str(block)](state_nchw).float()
        return torch.sigmoid(z_n1hw + self.bias)

    def advance(self, block: Block, state_nchw: Tensor, active: Tensor) -> Tensor:
        residual = block.residual(state_nchw)
        return F.relu(block.shortcut(state_nchw) + active.to(residual.dtype) * residual)

    def enter(self, stage: Stage, state_nchw: Tensor) -> Crowd:
        for number in stage.blocks:
            self.how_it_ran.pop(number, None)
        return PositionCrowd(
            state_nchw, scores=self.scores, eps=self.eps, bias=self.bias, choose=self._choose
        )

    def ran(self, stage: Stage, counts: Tensor) -> Mapping[str, Tensor]:
        # Of each image and block behind the first: active, and these with their neighbours.
        active_nb, around_nb = counts.unbind(dim=2)
        blocks = list(stage.blocks[1 : 1 + counts.shape[1]])
        self.how_it_ran |= dict.fromkeys(blocks, "gathered")
        area = stage.shape[1] * stage.shape[2]
        return shares_of(blocks, active_nb, around_nb, area=area, scores=self.scores)

    def _choose(self, number: int, active: int, rows: Rows) -> HowItRan:
        how: HowItRan = "gathered"
        if active == rows.grid.num_positions:
            how = "whole"
        elif self.break_even is not None:
            share = active / rows.grid.num_positions
            if share > self.break_even.get(kind_of(rows.shape, rows.grid.count), 1.0):
                how = "masked"
        self.how_it_ran[number] = how
        return how

    def shares(self, block: int, active: Tensor) -> Mapping[str, Tensor]:
        counted_n, around_n = (mask.sum(dim=(1, 2, 3)) for mask in (active, dilated(active)))
        area = active[0].numel()
        counts = counted_n[:, None], around_n[:, None]
        return shares_of([block], *counts, area=area, scores=self.scores)

    def coverage(self, active: Tensor) -> Tensor:
        # Half a block where only its first convolution runs, for a neighbour.
        return (active.float() + dilated(active).float()) / 2

    def score_units(self, block: int) -> Sequence[tuple[str, nn.Module]]:
        score = self.scores[str(block)]
        assert isinstance(score, PositionScore)
        return [(f"score{block}", score.local), (f"score{block}.global", score.whole)]

    def remove(self, block: int) -> None:
        if self.is_scored(block):
            score = self.scores[str(block)]
            assert isinstance(score, PositionScore)
            score.local, score.whole = RemovedResidual(), RemovedResidual()


def dilated(mask_n1hw: Tensor) -> Tensor:
    """Return the mask (bools) grown by one position in all eight directions."""
    return F.max_pool2d(mask_n1hw.float(), 3, stride=1, padding=1) > 0


def kind_of(shape: tuple[int, int, int], batch_size: int) -> str:
    """Return which kind a block with states of shape (C, h, w) is, alone or in a batch.

    A name, so that what is measured of kinds can be kept in a file.
    """
    channels, height, width = shape
    return f"{channels}x{height}x{width}, {'one image' if batch_size == 1 else 'batch'}"
