"""Positions halt one by one: the policy.

The path that skips computes exactly the positions whose MACs the trace counts. Owns no loop
(halting.py) and no method's score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.networks.halting_policy import Crowd, HaltingPolicy
from bench.networks.position_crowd import PositionCrowd, shares_of
from bench.networks.position_scores import LocalScore, PositionScore
from bench.networks.resnet import Block, Stage
from bench.networks.unit import RemovedResidual

__all__ = ["LocalScore", "PositionHalting", "PositionScore", "dilated"]


class PositionHalting(HaltingPolicy):
    """Positions halt; `make(width)` returns a PositionScore.

    The first block of a stage is dense. In a later one the second convolution runs at the active
    positions, the first at these and their eight neighbours; all others keep their state.
    """

    per_position = True

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
        return PositionCrowd(state_nchw, scores=self.scores, eps=self.eps, bias=self.bias)

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
