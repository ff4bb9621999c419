"""Stages that halt as one operator each, for inference on one CPU thread.

Owns how a folded stage, its blocks and the scores between them, becomes the arguments of an
operator; what is computed is said by pondering.py and position_crowd.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.networks.halting import HaltingResNet, running
from bench.networks.halting_policy import HaltingPolicy, ImageHalting
from bench.networks.native_parts import NativeBlock
from bench.networks.position_scores import LocalScore, OfMean, PositionScore, ScaleAndShift
from bench.networks.positions import PositionHalting


class ImageStage(nn.Module):
    """A stage behind its first block whose images halt: from the state behind the first block
    (N, C, h, w) to the stage's output, and how many further blocks ran for each image (N,)."""

    def __init__(self, steps: Sequence[Tensor], eps: float) -> None:
        super().__init__()
        self._steps, self._eps = list(steps), eps

    def forward(self, state_nchw: Tensor) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = torch.ops.skipbench.image_stage(
            state_nchw, self._steps, self._eps
        )
        return out


class PositionStage(ImageStage):
    """The same for positions, with two counts for each image and further block (N, B, 2): active
    positions, and these with their neighbours."""

    def forward(self, state_nchw: Tensor) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = torch.ops.skipbench.position_stage(
            state_nchw, self._steps, self._eps
        )
        return out


@torch.no_grad()
def use_native_stages(net: nn.Module) -> None:
    """Give the stages of a network that halts their operators, in place, where its blocks are
    operators already and its scores are of a kind that these know."""
    if not isinstance(net, HaltingResNet):
        return
    kind = PositionStage if isinstance(net.policy, PositionHalting) else ImageStage
    found: dict[int, nn.Module] = {}
    for stage in net.policy.stages:
        steps = [_step(net, b) for b in running(net.blocks, stage)]
        packed = [step for step in steps if step is not None]
        if packed and len(packed) == len(steps):
            found[stage.blocks[0]] = kind(packed, net.policy.eps)
    net.policy.operators = found


def _step(net: HaltingResNet, b: int) -> Tensor | None:
    """Return the numbers of block `b` and of the score before it."""
    block, score = net.blocks[b], _packed_score(net.policy, b - 1)
    if score is None or not isinstance(block, NativeBlock):
        return None
    return torch.cat([block.packed, score])


def _packed_score(policy: HaltingPolicy, block: int) -> Tensor | None:
    """Return the numbers of a folded score in the order of the operator's; None if it is another
    one than scale and shift, perhaps a leaky ReLU, and a convolution or linear layer."""
    score = policy.scores[str(block)]
    if isinstance(policy, ImageHalting):
        return _of_mean(score, bias=policy.bias)
    if not (isinstance(score, PositionScore) and isinstance(score.local, LocalScore)):
        return None
    conv, features = score.local.conv, _scaled(_layers(score.local.features))
    bias = policy.bias + (0.0 if conv.bias is None else float(conv.bias))
    of_mean = _of_mean(score.whole, bias=bias)
    if features is None or of_mean is None:
        return None
    weight = conv.weight.permute(2, 3, 1, 0)
    parts = features.scale, features.shift, weight, torch.tensor(features.slope), of_mean
    return torch.cat([part.detach().flatten() for part in parts])


def _of_mean(module: nn.Module, *, bias: float) -> Tensor | None:
    if not isinstance(module, OfMean):
        return None
    *before, last = module.layers
    scaled = _scaled(before)
    if scaled is None or not (isinstance(last, nn.Linear) and last.out_features == 1):
        return None
    bias += 0.0 if last.bias is None else float(last.bias)
    numbers = torch.tensor([scaled.slope, bias])
    parts = scaled.scale, scaled.shift, last.weight, numbers
    return torch.cat([part.detach().flatten() for part in parts])


class _Scaled(NamedTuple):
    scale: Tensor
    shift: Tensor
    slope: float


def _scaled(layers: Sequence[nn.Module]) -> _Scaled | None:
    match layers:
        case [ScaleAndShift() as first]:
            return _Scaled(first.scale, first.shift, 1.0)
        case [ScaleAndShift() as first, nn.ReLU()]:
            return _Scaled(first.scale, first.shift, 0.0)
        case [ScaleAndShift() as first, nn.LeakyReLU() as clip]:
            return _Scaled(first.scale, first.shift, clip.negative_slope)
    return None


def _layers(module: nn.Module) -> list[nn.Module]:
    return list(module) if isinstance(module, nn.Sequential) else [module]
