"""Tokens halt one by one: the policy, and blocks on the tokens that are left.

The path that skips gathers the tokens that are live and computes just these; images of as many go
through an attention together. Owns no loop (halting.py) and no method's score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from bench.errors import NotApplicable, Unsupported
from bench.networks.gated import has_cost
from bench.networks.halting_policy import HaltingPolicy, Needed
from bench.networks.residuals import TokenResidual
from bench.networks.trunk import Backbone, Block, blocks_of


class TokenHalting(HaltingPolicy):
    """Tokens halt behind each layer of a transformer; no token reads one that has halted.

    `make(width)` returns a module from tokens (N, T, C) to z (N, T, 1), each token by itself. A
    layer begins with every residual in which tokens read each other. The state that a token has
    when it halts stays as it is; the head reads the weighted sums of all of them.

    Raises:
        NotApplicable: a block of the backbone cannot run on some of its tokens.
    """

    def __init__(
        self, backbone: Backbone, make: Callable[[int], nn.Module], *, eps: float, bias: float
    ) -> None:
        self.work = _work_of(backbone)
        ends = [b - 1 for b, (_, pair) in enumerate(self.work) if pair and b]
        super().__init__(backbone, make, eps=eps, bias=bias, behind=ends)
        self.shapes = [(shape[0], shape[1]) for shape in backbone.input_shapes]
        self.per_position = all(_side(t, backbone.image_shape) for t, _ in self.shapes)

    def ones(self, state_ntc: Tensor) -> Tensor:
        return torch.ones(*state_ntc.shape[:2], 1, device=state_ntc.device)

    def score_active(self, block: int, state_ntc: Tensor, active_nt1: Tensor) -> Tensor:
        live_nt = active_nt1[..., 0]
        scores_nt1 = torch.zeros_like(active_nt1, dtype=torch.float32)
        scores_nt1[live_nt] = self.score(block, state_ntc[live_nt][None])[0]
        return scores_nt1

    def advance(self, block: Block, state_ntc: Tensor, needed: Needed) -> Tensor:
        residual, active_nt1 = block.residual, needed[-1]
        assert isinstance(residual, TokenResidual)
        added = residual.among(state_ntc, active_nt1[..., 0])
        return state_ntc + active_nt1.to(added.dtype) * added

    def advance_active(self, block: Block, state_ntc: Tensor, needed: Needed) -> Tensor:
        live_nt, residual = needed[-1][..., 0], block.residual
        assert isinstance(residual, TokenResidual)
        if live_nt.all():
            return super().advance_active(block, state_ntc, needed)
        after_ntc = state_ntc.clone()
        for chosen_nt, images in _alike(live_nt) if residual.work[1] else [(live_nt, 1)]:
            few_ntc = state_ntc[chosen_nt].view(images, -1, state_ntc.shape[2])
            after_ntc[chosen_nt] = (few_ntc + residual(few_ntc)).flatten(0, 1)
        return after_ntc

    def advance_branching(self, block: Block, state_ntc: Tensor, needed: Needed) -> Tensor:
        raise Unsupported(
            "no instruction for dropping tokens: how many are left depends on the image, and an"
            " instruction has tensors of one shape"
        )

    def shares(self, block: int, needed: Needed) -> Mapping[str, Tensor]:
        live_n, of = needed[-1][..., 0].sum(dim=1), self.shapes[block][0]
        token, pair = self.work[block]
        # In whole numbers: both ways to run give the same share, and all tokens exactly 1.
        found = {f"block{block}": live_n * (token + pair * live_n) / (of * (token + pair * of))}
        return found | {name: live_n / of for name, _ in self.score_units(block)}

    def on_pixels(self, values_nt1: Tensor, height: int, width: int) -> Tensor:
        side = _side(values_nt1.shape[1], (1, height, width))
        patches_nchw = values_nt1[:, -side * side :].reshape(-1, 1, side, side)
        return super().on_pixels(patches_nchw, height, width)

    def score_units(self, block: int) -> Sequence[tuple[str, nn.Module]]:
        return [(name, score) for name, score in super().score_units(block) if has_cost(score)]


def _work_of(backbone: Backbone) -> list[tuple[int, int]]:
    """Return what a token and a pair of tokens cost in each block."""
    found = []
    for b, block in enumerate(blocks_of(backbone.without_memory())):
        around = (block.shortcut, block.after, block.then)
        plain = all(isinstance(module, nn.Identity) for module in around)
        if not plain or not isinstance(block.residual, TokenResidual):
            raise NotApplicable(
                "Tokens are dropped where a residual is a TokenResidual (bench.backbone) with"
                f" nothing beside it; block{b} of {backbone.name} is none."
            )
        found.append(block.residual.work)
    return found


def _alike(live_nt: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Yield the live tokens of all images that have as many, and the number of these images."""
    live_n = live_nt.sum(dim=1)
    for count in torch.unique(live_n[live_n > 0]):
        rows_n = live_n == count
        yield live_nt & rows_n[:, None], int(rows_n.sum())


def _side(tokens: int, image_shape: tuple[int, int, int]) -> int:
    """Return the side of the square of patches that the last tokens are, of a square image; 0
    where there is none."""
    _, height, width = image_shape
    side = math.isqrt(tokens)
    return side if height == width and height % side == 0 else 0
