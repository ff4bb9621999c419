"""Batch-norm statistics estimated again after training, under the decisions of inference.

Where gates are drawn or noisy in training, the running statistics are those of masks that inference
never takes, and of images that skip the block. Owns no choice of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from bench.data.augment import Batch
from bench.errors import NotExecutable
from bench.measure.modes import in_eval_mode
from bench.method import DynamicNet


@contextmanager
def _averaging(norm: _BatchNorm) -> Iterator[None]:
    """Let a norm average the statistics of its inputs, each weighing as much as it has images.

    Everything else of the network stays in eval mode, so decisions are those of inference.
    """
    momentum, seen = norm.momentum, 0

    def before(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        nonlocal seen
        x = inputs[0]
        # One value per channel has no variance: it passes by the statistics that there are.
        norm.training = x.numel() > x.shape[1]
        if norm.training:
            seen += len(x)
            norm.momentum = len(x) / seen

    hook = norm.register_forward_pre_hook(before)
    try:
        yield
    finally:
        hook.remove()
        norm.momentum = momentum


def reestimate(net: DynamicNet, batches: Iterable[Batch]) -> int:
    """Replace the running statistics of all batch norms in `net` by those of `batches`.

    Each norm sees the images that reach it when the network really skips; one that no image
    reaches keeps what it had. Returns the number of images.
    """
    images = 0
    with in_eval_mode(net), torch.no_grad(), ExitStack() as stack:
        for module in net.modules():
            if isinstance(module, _BatchNorm) and module.track_running_stats:
                stack.enter_context(_averaging(module))
        for batch in batches:
            try:
                net.execute(batch.x_nchw)
            except NotExecutable:
                net(batch.x_nchw)
            images += len(batch)
    return images
