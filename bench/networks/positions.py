"""Positions halt one by one: the policy, and convolutions that run at chosen positions only.

A convolution at chosen positions gathers the 3x3 neighbourhood of each, multiplies all of them by
the weights at once, and puts the results in place. It computes exactly the positions whose MACs
the trace counts. Owns no loop (halting.py) and no method's score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.networks.halting_policy import HaltingPolicy
from bench.networks.resnet import Block, Residual
from bench.networks.unit import RemovedResidual


class LocalScore(nn.Module):
    """A 3x3 convolution to one channel, on `features` that act on each position alone."""

    def __init__(self, features: nn.Module, conv: nn.Conv2d) -> None:
        super().__init__()
        self.features = features
        self.conv = conv

    def forward(self, state_nchw: Tensor) -> Tensor:
        z_n1hw: Tensor = self.conv(self.features(state_nchw))
        return z_n1hw

    def at(self, state_nchw: Tensor, active_n1hw: Tensor) -> Tensor:
        """Return what `forward` returns where `active_n1hw`, computed only there, else 0."""
        padded = _padded_rows(self.features(state_nchw))
        places = _Places(active_n1hw)
        z = state_nchw.new_zeros(active_n1hw.numel(), 1)
        z[places.row_m] = _convolve(padded, self.conv, places)
        return z.view(active_n1hw.shape)


class PositionScore(nn.Module):
    """z (N, 1, h, w) of a state (N, C, h, w): a map, plus one number (N, 1) for the whole image."""

    def __init__(self, local: LocalScore, whole: nn.Module) -> None:
        super().__init__()
        self.local: nn.Module = local
        self.whole: nn.Module = whole

    def forward(self, state_nchw: Tensor) -> Tensor:
        z_n1hw: Tensor = self.local(state_nchw) + self.whole(state_nchw)[:, :, None, None]
        return z_n1hw

    def at(self, state_nchw: Tensor, active_n1hw: Tensor) -> Tensor:
        """Return what `forward` returns where `active_n1hw`; elsewhere it means nothing."""
        assert isinstance(self.local, LocalScore)
        whole_n1: Tensor = self.whole(state_nchw)
        return self.local.at(state_nchw, active_n1hw) + whole_n1[:, :, None, None]


class PositionHalting(HaltingPolicy):
    """Positions halt; `make(width)` returns a PositionScore.

    The first block of a stage is dense. In a later one the second convolution runs at the active
    positions, the first at these and their eight neighbours; all others keep their state.
    """

    def ones(self, state_nchw: Tensor) -> Tensor:
        n, _, height, width = state_nchw.shape
        return torch.ones(n, 1, height, width, device=state_nchw.device)

    def score(self, block: int, state_nchw: Tensor) -> Tensor:
        z_n1hw = self.scores[str(block)](state_nchw).float()
        return torch.sigmoid(z_n1hw + self.bias)

    def advance(self, block: Block, state_nchw: Tensor, active: Tensor) -> Tensor:
        residual = block.residual(state_nchw)
        return F.relu(block.shortcut(state_nchw) + active.to(residual.dtype) * residual)

    def score_active(self, block: int, state_nchw: Tensor, active: Tensor) -> Tensor:
        if active.all():
            return self.score(block, state_nchw)
        score = self.scores[str(block)]
        assert isinstance(score, PositionScore)
        return torch.sigmoid(score.at(state_nchw, active).float() + self.bias)

    def advance_active(self, block: Block, state_nchw: Tensor, active: Tensor) -> Tensor:
        if active.all():
            out: Tensor = block(state_nchw)
            return out
        assert isinstance(block.residual, Residual)
        return add_residual_at(block.residual, state_nchw, active)

    def shares(self, block: int, active: Tensor) -> Mapping[str, Tensor]:
        active_n = active.float().mean(dim=(1, 2, 3))
        # Behind the first block of a stage both convolutions cost the same at a position.
        shares = {f"block{block}": (dilated(active).float().mean(dim=(1, 2, 3)) + active_n) / 2}
        if self.is_scored(block):
            shares[f"score{block}"] = active_n
            shares[f"score{block}.global"] = (active_n > 0).float()
        return shares

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


@torch.no_grad()
def add_residual_at(residual: Residual, state_nchw: Tensor, active_n1hw: Tensor) -> Tensor:
    """Return ReLU(x + F(x)) at the active positions and x at all others, in eval mode.

    Overwrites `state_nchw` where its memory allows.
    """
    at, around = _Places(active_n1hw), _Places(dilated(active_n1hw))
    inputs = _padded_rows(state_nchw)
    hidden = inputs.new_zeros(len(inputs), residual.conv1.out_channels)
    inner = _convolve(inputs, residual.conv1, around)
    hidden[around.padded_row_m] = F.relu(_normalise(inner, residual.bn1))
    outer = _normalise(_convolve(hidden, residual.conv2, at), residual.bn2)
    state_nhwc = state_nchw.permute(0, 2, 3, 1).contiguous()
    rows = state_nhwc.view(-1, state_nhwc.shape[-1])
    rows[at.row_m] = F.relu(rows[at.row_m] + outer)
    return state_nhwc.permute(0, 3, 1, 2)


class _Places:
    """The M set positions of a mask (N, 1, h, w): their rows in (N h w, C), plain and padded."""

    def __init__(self, mask_n1hw: Tensor) -> None:
        height, width = mask_n1hw.shape[2:]
        self.row_m = mask_n1hw.flatten().nonzero().flatten()
        image_m = self.row_m // (height * width)
        y_m, x_m = self.row_m // width % height, self.row_m % width
        self.padded_width = width + 2
        self.padded_row_m = (image_m * (height + 2) + y_m + 1) * self.padded_width + x_m + 1


def _padded_rows(x_nchw: Tensor) -> Tensor:
    """Return (N (h+2) (w+2), C): one row per position of the images with a border of zeros."""
    return F.pad(x_nchw.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).flatten(0, 2)


def _convolve(padded_rows: Tensor, conv: nn.Conv2d, at: _Places) -> Tensor:
    """Return the outputs (M, C_out) of a 3x3 convolution of stride 1 at the places given."""
    near = torch.arange(-1, 2, device=padded_rows.device)
    offsets_k = (near[:, None] * at.padded_width + near).flatten()
    patches_mkc = padded_rows[at.padded_row_m[:, None] + offsets_k]
    weight_kco = conv.weight.permute(2, 3, 1, 0).flatten(0, 2)
    out = patches_mkc.flatten(1) @ weight_kco
    return out if conv.bias is None else out + conv.bias


def _normalise(values_mc: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    out: Tensor = norm(values_mc[:, :, None, None])
    return out.flatten(1)
