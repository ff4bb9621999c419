"""The copy of a network that is timed: the same function, as fast as this machine can run it.

Owns what is done to every network alike, the dense one included: folded batch norms, fused kernels,
large batches in portions that fit the caches. Decides nothing and owns no clock.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from bench.networks.folding import fold_batch_norms
from bench.networks.kernels import use_fused_kernels
from bench.networks.position_scores import fold_scores

Net = TypeVar("Net", bound=nn.Module)
Call = Callable[[Tensor], Tensor]


def fast_copy(net: Net, probe_nchw: Tensor) -> Net:
    """Return a copy in eval mode with batch norms folded away and fused kernels where torch has
    them. `probe_nchw` (N, C, H, W) are images like those to come. The copy is for inference only.
    """
    fast = copy.deepcopy(net).eval()
    fold_batch_norms(fast, probe_nchw)
    fold_scores(fast)
    use_fused_kernels(fast, probe_nchw)
    return fast


def in_portions(call: Call, size: int) -> Call:
    """Return the same call, made on at most `size` images at a time; results are joined."""

    def portioned(x_nchw: Tensor) -> Tensor:
        if len(x_nchw) <= size:
            return call(x_nchw)
        return torch.cat([call(part) for part in torch.split(x_nchw, size)])

    return portioned
