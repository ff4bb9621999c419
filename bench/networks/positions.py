"""Positions halt one by one: the policy; blocks run at the positions that are left (local.py).

The path that skips computes exactly the positions whose MACs the trace counts. Owns no loop
(halting.py) and no method's score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import NotApplicable
from bench.networks.execution import GateResidual, at_positions
from bench.networks.halting_policy import HaltingPolicy, Needed
from bench.networks.local import LocalResidual, convolved_at, places_of
from bench.networks.trunk import Block


class LocalScore(nn.Module):
    """A 3x3 convolution to one channel, on `features` that act on each position alone."""

    def __init__(self, features: nn.Module, conv: nn.Conv2d) -> None:
        super().__init__()
        self.features = features
        self.conv = conv

    def forward(self, state_nchw: Tensor) -> Tensor:
        z_n1hw: Tensor = self.conv(self.features(state_nchw))
        return z_n1hw

    def at(self, mask_n1hw: Tensor, state_nchw: Tensor) -> Tensor:
        """Return what `forward` gives, computed where the mask is set and 0 elsewhere.

        `features` run everywhere: that costs less than finding out where they are read.
        """
        z_n1hw = torch.zeros_like(mask_n1hw, dtype=state_nchw.dtype)
        found_m1 = convolved_at(places_of(mask_n1hw), self.conv, self.features(state_nchw))
        z_n1hw[mask_n1hw] = found_m1.flatten()
        return z_n1hw


class PositionScore(nn.Module):
    """z (N, 1, h, w) of a state (N, C, h, w): a map, plus one number (N, 1) for the whole image."""

    def __init__(self, local: LocalScore, whole: nn.Module) -> None:
        super().__init__()
        self.local = local
        self.whole = whole

    def forward(self, state_nchw: Tensor) -> Tensor:
        z_n1hw: Tensor = self.local(state_nchw) + self.whole(state_nchw)[:, :, None, None]
        return z_n1hw


class PositionHalting(HaltingPolicy):
    """Positions halt; `make(width)` returns a PositionScore.

    The first block of a stage is dense. In a later one the second convolution runs at the active
    positions, the first at these and their eight neighbours; all others keep their state.
    """

    per_position = True

    def check(self, blocks: Sequence[Block], name: str) -> None:
        super().check(blocks, name)
        for b in (b for stage in self.stages for b in stage.blocks[1:]):
            if not _skips_positions(blocks[b]):
                raise NotApplicable(
                    f"Positions are skipped in basic blocks of two 3x3 convolutions and a ReLU; "
                    f"block{b} of {name} is none."
                )

    def ones(self, state_nchw: Tensor) -> Tensor:
        n, _, height, width = state_nchw.shape
        return torch.ones(n, 1, height, width, device=state_nchw.device)

    def score_active(self, block: int, state_nchw: Tensor, active: Tensor) -> Tensor:
        score = self.scores[str(block)]
        assert isinstance(score, PositionScore)
        z_n1hw = score.local.at(active, state_nchw) + score.whole(state_nchw)[:, :, None, None]
        return torch.sigmoid(z_n1hw.float() + self.bias)

    def needed(self, active: Tensor) -> Needed:
        return dilated(active), active

    def advance(self, block: Block, state_nchw: Tensor, needed: Needed) -> Tensor:
        residual = block.residual(state_nchw)
        kept = needed[-1].to(residual.dtype) * residual
        out: Tensor = block.after(block.shortcut(state_nchw) + kept)
        return out

    def advance_active(self, block: Block, state_nchw: Tensor, needed: Needed) -> Tensor:
        return at_positions(LocalResidual(block), state_nchw, needed, GateResidual())

    def shares(self, block: int, needed: Needed) -> Mapping[str, Tensor]:
        around_n, active_n = (mask.float().mean(dim=(1, 2, 3)) for mask in needed)
        # Behind the first block of a stage both convolutions cost the same at a position.
        found = {f"block{block}": (around_n + active_n) / 2}
        if self.is_scored(block):
            any_n = (active_n > 0).float()
            found |= {f"score{block}": active_n, f"score{block}.global": any_n}
        return found

    def score_units(self, block: int) -> Sequence[tuple[str, nn.Module]]:
        if not self.is_scored(block):
            return []
        score = self.scores[str(block)]
        assert isinstance(score, PositionScore)
        return [(f"score{block}", score.local), (f"score{block}.global", score.whole)]


def _skips_positions(block: Block) -> bool:
    try:
        convs = LocalResidual(block).convs
    except NotApplicable:
        return False
    plain = [(conv.kernel_size, conv.stride, conv.groups) == ((3, 3), (1, 1), 1) for conv in convs]
    ends = isinstance(block.shortcut, nn.Identity) and isinstance(block.after, nn.ReLU)
    return ends and plain == [True, True]


def dilated(mask_n1hw: Tensor) -> Tensor:
    """Return the mask (bools) grown by one position in all eight directions."""
    return F.max_pool2d(mask_n1hw.float(), 3, stride=1, padding=1) > 0
