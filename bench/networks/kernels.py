"""Kernels for inference: a convolution with its bias, sum and ReLU in one pass.

oneDNN and cuDNN can add and clip while a result is still in registers; three passes over memory and
two calls less per block. The dense network gets these kernels as every other. Owns no decision what
runs; works on folded networks (folding.py) and leaves anything it does not know as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.networks.resnet import Block, Head, Residual, Stem

Sides = dict[nn.Module, tuple[int, int]]  # of what each convolution reads

# What a kernel's memory layout is chosen for; it works for all other sizes too.
_TYPICAL_BATCH = 16


def kernels_available(tensor: Tensor) -> bool:
    """Whether this build of torch has oneDNN's kernels for the type and device of `tensor`."""
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
    """Give every folded stem and block, and every head, its fast form, in place; in eval mode.

    `probe_nchw` (N, C, H, W) is run once to see the sizes of the feature maps. Weights are packed
    once: do not train the network afterwards. Where torch has no such kernels nothing changes.
    """
    if kernels_available(probe_nchw):
        _use(PackedConvolution, net, probe_nchw)
    elif cudnn_fuses(probe_nchw):
        _use(CudnnConvolution, net, probe_nchw)


def cudnn_fuses(tensor: Tensor) -> bool:
    """Whether cuDNN's fused convolutions work for the type and device of `tensor`: one is tried."""
    cudnn: Any = torch.backends.cudnn
    if tensor.device.type != "cuda" or not cudnn.is_available():
        return False
    conv = nn.Conv2d(8, 8, 3, padding=1, device=tensor.device, dtype=tensor.dtype)
    x_nchw = tensor.new_ones(1, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    try:
        fused = CudnnConvolution(conv, (4, 4)).relu_of_sum(x_nchw, x_nchw)
        return bool(torch.allclose(fused, (conv(x_nchw) + x_nchw).relu(), rtol=0.02, atol=0.02))
    except (AttributeError, RuntimeError):
        return False


def sides_of(net: nn.Module, probe_nchw: Tensor) -> Sides:
    """Return height and width of what each convolution reads, seen in one call of `net`."""
    sides: Sides = {}

    def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        sides[module] = given[0].shape[2], given[0].shape[3]

    convs = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    hooks = [conv.register_forward_pre_hook(note) for conv in convs]
    try:
        net(probe_nchw)
    finally:
        for hook in hooks:
            hook.remove()
    return sides


def replace_parts(
    net: nn.Module,
    sides: Sides,
    *,
    stem: Callable[[Stem, Sides], Stem],
    block: Callable[[Block, Sides], Block],
    head: Callable[[Head], Head] | None = None,
) -> None:
    """Put what `stem` and `block` make in the place of every folded stem and block, in place, and
    what `head` makes, or a `DirectHead`, in that of every head."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is Stem and _is_folded(child.conv, child.bn, sides):
                parent.register_module(name, stem(child, sides))
            elif type(child) is Head:
                parent.register_module(name, (head or DirectHead)(child))
            elif type(child) is Block and _can_fuse(child, sides):
                parent.register_module(name, block(child, sides))


class PackedConvolution:
    """One convolution with packed weights; the bias is added, a sum and ReLU if asked."""

    def __init__(self, conv: nn.Conv2d, side: tuple[int, int]) -> None:
        padding, stride, dilation = _pair(conv.padding), _pair(conv.stride), _pair(conv.dilation)
        shape = (_TYPICAL_BATCH, conv.in_channels, *side)
        weight = torch.ops.mkldnn._reorder_convolution_weight(
            conv.weight.detach(), padding, stride, dilation, conv.groups, shape
        )
        self._fixed = (weight, conv.bias, padding, stride, dilation, conv.groups)
        # Looked up once: an operator by name costs as much as a small kernel.
        self._alone: Any = torch.ops.mkldnn._convolution_pointwise.default
        self._summed: Any = torch.ops.mkldnn._convolution_pointwise.binary

    def relu(self, x_nchw: Tensor) -> Tensor:
        """Return ReLU(conv(x) + bias)."""
        out: Tensor = self._alone(x_nchw, *self._fixed, "relu", [], "")
        return out

    def relu_of_sum(self, x_nchw: Tensor, other_nchw: Tensor) -> Tensor:
        """Return ReLU(conv(x) + bias + other)."""
        out: Tensor = self._summed(x_nchw, other_nchw, *self._fixed, "add", 1.0, "relu", [], "")
        return out


class CudnnConvolution:
    """The same on CUDA, by cuDNN."""

    def __init__(self, conv: nn.Conv2d, side: tuple[int, int]) -> None:
        del side  # nothing is packed
        padding, stride, dilation = _pair(conv.padding), _pair(conv.stride), _pair(conv.dilation)
        self._weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        bias = None if conv.bias is None else conv.bias.detach()
        self._fixed = (bias, stride, padding, dilation, conv.groups)
        self._alone: Any = torch.ops.aten.cudnn_convolution_relu.default
        self._summed: Any = torch.ops.aten.cudnn_convolution_add_relu.default

    def relu(self, x_nchw: Tensor) -> Tensor:
        """Return ReLU(conv(x) + bias)."""
        out: Tensor = self._alone(x_nchw, self._weight, *self._fixed)
        return out

    def relu_of_sum(self, x_nchw: Tensor, other_nchw: Tensor) -> Tensor:
        """Return ReLU(conv(x) + bias + other)."""
        out: Tensor = self._summed(x_nchw, self._weight, other_nchw, 1.0, *self._fixed)
        return out


Packing = type[PackedConvolution] | type[CudnnConvolution]


def _use(packing: Packing, net: nn.Module, probe_nchw: Tensor) -> None:
    replace_parts(
        net,
        sides_of(net, probe_nchw),
        stem=partial(FusedStem, packing=packing),
        block=partial(FusedBlock, packing=packing),
    )


class FusedStem(Stem):
    """A folded stem in one kernel. Like all here, calling it runs no hooks: at batch 1 what a
    module call adds is a tenth of a block."""

    def __init__(self, stem: Stem, sides: Sides, packing: Packing) -> None:
        nn.Module.__init__(self)
        self.conv, self.bn = stem.conv, stem.bn
        self._packed = packing(stem.conv, sides[stem.conv])

    def forward(self, x: Tensor) -> Tensor:
        return self._packed.relu(x)

    __call__ = forward


class DirectHead(Head):
    """The head without a module call in between, and without a division."""

    def __init__(self, head: Head) -> None:
        nn.Module.__init__(self)
        self.linear = head.linear
        self._weight_ck, self._bias_k = head.linear.weight.detach().t(), head.linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return self.of_sum(x.sum(dim=(2, 3)), int(x.shape[2] * x.shape[3]))

    def of_sum(self, sum_nc: Tensor, positions: int) -> Tensor:
        return torch.addmm(self._bias_k, sum_nc, self._weight_ck, alpha=1 / positions)

    __call__ = forward


class FusedBlock(Block):
    """A folded block in two kernels; its residual alone still runs as before."""

    def __init__(self, block: Block, sides: Sides, packing: Packing) -> None:
        nn.Module.__init__(self)
        self.c_out, self.stride = block.c_out, block.stride
        self.residual, self.shortcut = block.residual, block.shortcut
        assert isinstance(block.residual, Residual)
        conv1, conv2 = block.residual.conv1, block.residual.conv2
        self._first = packing(conv1, sides[conv1])
        self._second = packing(conv2, sides[conv2])
        identity = isinstance(block.shortcut, nn.Identity)
        self._shortcut = None if identity else block.shortcut.forward

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self._shortcut is None else self._shortcut(x)
        return self._second.relu_of_sum(self._first.relu(x), shortcut)

    __call__ = forward


def _can_fuse(block: Block, sides: Sides) -> bool:
    residual = block.residual
    return (
        isinstance(residual, Residual)
        and _is_folded(residual.conv1, residual.bn1, sides)
        and _is_folded(residual.conv2, residual.bn2, sides)
    )


def _is_folded(conv: nn.Module, norm: nn.Module, sides: Sides) -> bool:
    return conv in sides and isinstance(norm, nn.Identity)


def _pair(value: Any) -> list[int]:
    return [int(part) for part in value]
