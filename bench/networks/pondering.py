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


class Remainder:
    """What is left of the weight 1 in one stage, per image (N, 1, 1, 1) or position (N, 1, h, w).

    `left` is exactly 0 for whoever has halted, and `active` False.
    """

    def __init__(self, ones: Tensor, *, eps: float) -> None:
        self.eps = eps
        self.left = ones
        self.active = torch.ones_like(ones, dtype=torch.bool)

    def weigh(self, scores: Tensor) -> Tensor:
        """Return p of the unit that has just run, and go on to the next one.

        `scores` of whoever has halted before do not matter: nothing is left to give.
        """
        weights = torch.where(self.left - scores <= self.eps, self.left, scores)
        self.left = self.left - weights
        self.active = self.left.detach() > 0
        return weights

    def finish(self) -> Tensor:
        """Return p of a last unit, whose score counts as 1: whatever is left."""
        weights = self.left
        self.left = torch.zeros_like(weights)
        self.active = torch.zeros_like(self.active)
        return weights

    def keep(self, stays_n: Tensor) -> None:
        """Go on with some of the images only."""
        self.left, self.active = self.left[stays_n], self.active[stays_n]


class Pondering(Remainder):
    """Also counts: `units` becomes N, and `cost` N + R.

    The gradient of the cost reaches the scores through R alone, for N is a count.
    """

    def __init__(self, ones: Tensor, *, eps: float) -> None:
        super().__init__(ones, eps=eps)
        self.units = self.cost = ones

    def weigh(self, scores: Tensor) -> Tensor:
        weights = super().weigh(scores)
        goes_on = self.active.to(weights.dtype)
        self.units = self.units + goes_on
        # Whoever halts here gave all that was left: R. Whoever had halted before gave nothing.
        self.cost = self.cost + torch.where(self.active, 1.0, weights)
        return weights

    def finish(self) -> Tensor:
        weights = super().finish()
        self.cost = self.cost + weights
        return weights
