"""The arithmetic of halting (Graves 2016): scores in, weights and ponder cost out.

    N = min{ n : h_1 + ... + h_n >= 1 - eps },   the last unit counts as h := 1
    R = 1 - (h_1 + ... + h_(N-1))
    p_l = h_l for l < N,   p_N = R,   0 after;   ponder cost = N + R

One running number holds all of it: what is left of the weight 1. Owns no network and no decision
about who has a score, an image or a position.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Pondering:
    """One stage under way, for every image (N, 1, 1, 1) or every position (N, 1, h, w).

    `left` is the weight that has not been given away: 1 at first, exactly 0 once halted. `cost`
    becomes N + R; its gradient reaches the scores through R alone, N is a count.
    """

    def __init__(self, ones: Tensor, *, eps: float) -> None:
        self.eps = eps
        self.left = ones
        self.units = ones
        self.cost = ones

    @property
    def active(self) -> Tensor:
        """Who has not halted, as a mask of bools."""
        return self.left.detach() > 0

    def weigh(self, scores: Tensor) -> Tensor:
        """Return p of the unit that has just run, and go on to the next one.

        `scores` of whoever has halted before do not matter: nothing is left to give.
        """
        halts = self.left - scores <= self.eps
        weights = torch.where(halts, self.left, scores)
        self.left = self.left - weights
        goes_on = self.active.to(self.cost.dtype)
        self.units = self.units + goes_on
        self.cost = self.cost + goes_on + torch.where(halts, weights, 0.0)
        return weights

    def finish(self) -> Tensor:
        """Return p of a last unit, whose score counts as 1: whatever is left."""
        weights = self.left
        self.left = torch.zeros_like(weights)
        self.cost = self.cost + weights
        return weights

    def keep(self, index_m: Tensor) -> None:
        """Go on with some of the images only."""
        self.left, self.units, self.cost = (
            values.index_select(0, index_m) for values in (self.left, self.units, self.cost)
        )
