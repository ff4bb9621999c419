"""eager: PyTorch operator by operator, batch norms folded, blocks really skipped.

The reference: always there, on any device, with any number of threads, for any network.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from bench.networks.folding import fold_batch_norms
from bench.networks.unit import DynamicNet
from bench.runtimes.contract import Run, Runtime


class Eager(Runtime):
    """`execute` of a copy whose batch norms are folded away."""

    name = "eager"
    summary = "PyTorch operator by operator, any device; batch norms folded"

    def refuses(self, net: DynamicNet, device: torch.device, threads: int) -> str | None:
        return None

    def prepare(self, net: DynamicNet, example_nchw: Tensor) -> Run:
        fast = folded_copy(net, example_nchw)

        @torch.inference_mode()
        def run(x_nchw: Tensor) -> tuple[Tensor, Tensor]:
            output = fast.execute(x_nchw)
            return output.logits, output.executed

        return run


def folded_copy(net: DynamicNet, example_nchw: Tensor) -> DynamicNet:
    """Return a copy for inference alone: eval mode, batch norms folded, no gradients."""
    fast = copy.deepcopy(net).eval()
    fold_batch_norms(fast, example_nchw)
    return fast.requires_grad_(False)
