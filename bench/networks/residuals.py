"""Residuals of which a part can be left out: positions of a map, tokens. Owns no block."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


def basic_residual(
    conv1: nn.Module, bn1: nn.Module, conv2: nn.Module, bn2: nn.Module
) -> nn.Sequential:
    """Return the residual of a basic block: conv-BN-ReLU-conv-BN."""
    relu = nn.ReLU(inplace=True)
    return nn.Sequential(OrderedDict(conv1=conv1, bn1=bn1, relu=relu, conv2=conv2, bn2=bn2))


class TokenResidual(nn.Sequential):
    """A residual of tokens (N, T, C) that can run on any number of them: one after the other, each
    module acts on each token alone."""

    work: tuple[int, int] = (1, 0)
    """What a token costs by itself, and what each pair of tokens adds, in MACs or any multiple."""

    def among(self, h_ntc: Tensor, live_nt: Tensor) -> Tensor:
        """Return what `forward` gives those tokens that are live, as if the others were not there;
        in place of these any finite numbers. Differentiable."""
        out: Tensor = self(h_ntc)
        return out


class AttentionResidual(TokenResidual):
    """A residual in which tokens read each other.

    `attention` takes (N, T, C), and an `attn_mask` (N, 1, 1, T) that is added to its scores before
    the softmax; no order of its own, only positions that the tokens carry.
    """

    def __init__(
        self, norm: nn.Module, attention: nn.Module, *after: nn.Module, work: tuple[int, int]
    ) -> None:
        super().__init__(norm, attention, *after)
        self.work = work

    def among(self, h_ntc: Tensor, live_nt: Tensor) -> Tensor:
        norm, attention, *after = self
        # Not minus infinity: where no token is live that would give NaN.
        mask_nt = torch.zeros_like(live_nt, dtype=h_ntc.dtype).masked_fill(~live_nt, -1e9)
        out: Tensor = attention(norm(h_ntc), attn_mask=mask_nt[:, None, None])
        for module in after:
            out = module(out)
        return out
