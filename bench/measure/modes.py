"""How a network is set while it is measured: eval mode, no autograd, full fp32; then put back.

Owns the switching and nothing that is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put `net` into eval mode under `inference_mode`; give each part its own mode back."""
    with in_eval_mode(net), torch.inference_mode():
        yield


@contextmanager
def in_eval_mode(net: nn.Module) -> Iterator[None]:
    """Put `net` into eval mode, autograd as it is; give each part its own mode back."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def full_fp32() -> Iterator[None]:
    """Switch TF32 convolutions off: two paths that agree in fp32 may differ by 1e-3 in TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def in_plain_operators() -> Iterator[None]:
    """Let torch run attention and recurrent layers as matrix products, not fused into operators
    that a counter of MACs does not know; numbers change by rounding at most."""
    onednn: Any = torch.backends.mkldnn
    mha: Any = torch.backends.mha
    before = onednn.enabled, mha.get_fastpath_enabled()
    onednn.enabled = False
    mha.set_fastpath_enabled(False)
    try:
        with torch.backends.cudnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        onednn.enabled = before[0]
        mha.set_fastpath_enabled(before[1])


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Let torch's kernels use `threads` CPU threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
