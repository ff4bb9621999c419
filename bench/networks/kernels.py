"""Kernels for inference on a CPU: a convolution with its bias, sum and ReLU in one pass.

oneDNN can add and clip while a result is still in registers; three passes over memory and two
calls less per block. The dense network gets these kernels as every other. Owns no decision what
runs; works on folded networks (folding.py) and leaves anything it does not know as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.networks.resnet import Block, Residual, Stem

# What a kernel's memory layout is chosen for; it works for all other sizes too.
_TYPICAL_BATCH = 16


def kernels_available(tensor: Tensor) -> bool:
    """Whether this build of torch has the kernels for the type and device of `tensor`."""
    onednn: Any = torch.backends.mkldnn
    return (
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and onednn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
    )


@torch.no_grad()
def use_fused_kernels(net: nn.Module, probe_nchw: Tensor) -> None:
    """Give every folded stem and block of a network in eval mode its fused kernels, in place.

    `probe_nchw` (N, C, H, W) is run once to see the sizes of the feature maps. Weights are packed
    once: do not train the network afterwards. Where torch has no such kernels nothing changes.
    """
    if not kernels_available(probe_nchw):
        return
    sides: dict[nn.Module, tuple[int, int]] = {}

    def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        sides[module] = given[0].shape[2], given[0].shape[3]

    convs = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    hooks = [conv.register_forward_pre_hook(note) for conv in convs]
    try:
        net(probe_nchw)
    finally:
        for hook in hooks:
            hook.remove()
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Stem) and _is_folded(child.conv, child.bn, sides):
                parent.register_module(name, FusedStem(child, sides))
            elif type(child) is Block and _can_fuse(child, sides):
                parent.register_module(name, FusedBlock(child, sides))


class PackedConvolution:
    """One convolution with packed weights; the bias is added, a sum and ReLU if asked."""

    def __init__(self, conv: nn.Conv2d, side: tuple[int, int]) -> None:
        padding, stride, dilation = _pair(conv.padding), _pair(conv.stride), _pair(conv.dilation)
        shape = (_TYPICAL_BATCH, conv.in_channels, *side)
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(
            conv.weight.detach(), padding, stride, dilation, conv.groups, shape
        )
        self._bias = conv.bias
        self._where = (padding, stride, dilation, conv.groups)
        # Looked up once: an operator by name costs as much as a small kernel.
        self._alone: Any = torch.ops.mkldnn._convolution_pointwise.default
        self._summed: Any = torch.ops.mkldnn._convolution_pointwise.binary

    def relu(self, x_nchw: Tensor) -> Tensor:
        """Return ReLU(conv(x) + bias)."""
        out: Tensor = self._alone(x_nchw, self._weight, self._bias, *self._where, "relu", [], "")
        return out

    def relu_of_sum(self, x_nchw: Tensor, other_nchw: Tensor) -> Tensor:
        """Return ReLU(conv(x) + bias + other)."""
        how: tuple[Any, ...] = ("add", 1.0, "relu", [], "")
        out: Tensor = self._summed(x_nchw, other_nchw, self._weight, self._bias, *self._where, *how)
        return out


class FusedStem(Stem):
    """A folded stem in one kernel."""

    def __init__(self, stem: Stem, sides: dict[nn.Module, tuple[int, int]]) -> None:
        nn.Module.__init__(self)
        self.conv, self.bn = stem.conv, stem.bn
        self._packed = PackedConvolution(stem.conv, sides[stem.conv])

    def forward(self, x: Tensor) -> Tensor:
        return self._packed.relu(x)


class FusedBlock(Block):
    """A folded block in two kernels; its residual alone still runs as before."""

    def __init__(self, block: Block, sides: dict[nn.Module, tuple[int, int]]) -> None:
        nn.Module.__init__(self)
        self.c_out, self.stride = block.c_out, block.stride
        self.residual, self.shortcut = block.residual, block.shortcut
        assert isinstance(block.residual, Residual)
        conv1, conv2 = block.residual.conv1, block.residual.conv2
        self._first = PackedConvolution(conv1, sides[conv1])
        self._second = PackedConvolution(conv2, sides[conv2])

    def forward(self, x: Tensor) -> Tensor:
        return self._second.relu_of_sum(self._first.relu(x), self.shortcut(x))


def _can_fuse(block: Block, sides: dict[nn.Module, tuple[int, int]]) -> bool:
    residual = block.residual
    return (
        isinstance(residual, Residual)
        and _is_folded(residual.conv1, residual.bn1, sides)
        and _is_folded(residual.conv2, residual.bn2, sides)
    )


def _is_folded(conv: nn.Module, norm: nn.Module, sides: dict[nn.Module, tuple[int, int]]) -> bool:
    return conv in sides and isinstance(norm, nn.Identity)


def _pair(value: Any) -> list[int]:
    return [int(part) for part in value]
