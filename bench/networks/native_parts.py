"""Stems, blocks, heads and gates as calls of our own operators, for inference on one CPU thread.

Owns how folded parts of a network become the arguments of an operator; the operators are
bench.networks.native's, what calls them is the loops' (execution.py, branching.py).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from bench.networks import native
from bench.networks.kernels import (
    DirectHead,
    FusedBlock,
    FusedStem,
    PackedConvolution,
    Sides,
    replace_parts,
    sides_of,
)
from bench.networks.lean_gates import LeanGates
from bench.networks.resnet import Block, Head, Projection, Residual, Stem
from bench.networks.states import SelectiveBlock

_VECTOR = 16  # output channels are a multiple of this


@torch.no_grad()
def use_native_parts(net: nn.Module, probe_nchw: Tensor) -> bool:
    """Give every folded stem and block, every head and every lean gate its operator, in place, and
    what they know in the sequences of layers that policies are made of; in eval mode. Returns
    whether there are operators: where there are none nothing changes.

    `probe_nchw` (N, C, H, W) is run once to see which convolutions are used. Weights are packed
    once: do not train the network afterwards.
    """
    if probe_nchw.device.type != "cpu" or probe_nchw.dtype != torch.float32:
        return False
    if not native.available():
        return False
    replace_parts(
        net, sides_of(net, probe_nchw), stem=_native_stem, block=_native_block, head=NativeHead
    )
    for module in list(net.modules()):
        if isinstance(module, LeanGates):
            module.native = True
        elif type(module) is nn.Sequential:
            _use_in_sequence(module)
    return True


class NativeStem(Stem):
    """A folded stem as one operator."""

    def __init__(self, stem: Stem) -> None:
        nn.Module.__init__(self)
        self.conv, self.bn = stem.conv, stem.bn
        self._c_out, self._packed = stem.conv.out_channels, _packed(stem.conv)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.skipbench.convolution(x, self._packed, self._c_out, 1)
        return out

    __call__ = forward


class NativeConvolution(nn.Module):
    """A convolution and the ReLU behind it as one operator."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv, self._packed = conv, _packed(conv)
        self._c_out, self._stride = conv.out_channels, conv.stride[0]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.skipbench.convolution(x, self._packed, self._c_out, self._stride)
        return out


class NativeBlock(Block, SelectiveBlock):
    """A folded block as one operator; its residual alone still runs as before."""

    def __init__(self, block: Block) -> None:
        nn.Module.__init__(self)
        self.c_out, self.stride = block.c_out, block.stride
        self.residual, self.shortcut = block.residual, block.shortcut
        residual = block.residual
        assert isinstance(residual, Residual)
        convs = [residual.conv1, residual.conv2]
        if isinstance(block.shortcut, Projection):
            convs.append(block.shortcut.conv)
        self.packed = torch.cat([_packed(conv) for conv in convs])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.skipbench.block(x, self.packed, self.c_out)
        return out

    def where(
        self, x_nchw: Tensor, gates_n: Tensor, means_nc: Tensor | None, clips: bool
    ) -> Tensor:
        out: Tensor = torch.ops.skipbench.block_where(
            x_nchw, gates_n, means_nc, self.packed, self.c_out, clips
        )
        return out

    def if_open(self, gates: Tensor, index: int, h_nchw: Tensor, clips: bool) -> Tensor:
        """Return what comes out for one image: by gate `index` of these, in the order they lie."""
        out: Tensor = torch.ops.skipbench.block_if(
            gates, index, h_nchw, self.packed, self.c_out, clips
        )
        return out

    def with_sum_if_open(
        self, gates: Tensor, h_nchw: Tensor, sum_nc: Tensor, clips: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the same by one gate, and the sum (1, C) over its positions; `sum_nc` is that of
        what comes in."""
        out: tuple[Tensor, Tensor] = torch.ops.skipbench.block_and_sum_if(
            gates, h_nchw, sum_nc, self.packed, self.c_out, clips
        )
        return out

    __call__ = forward


class NativeHead(DirectHead):
    """The head as two operators."""

    def __init__(self, head: Head | nn.Linear) -> None:
        nn.Module.__init__(self)
        self.linear = head.linear if isinstance(head, Head) else head
        self._weight_ck = self.linear.weight.detach().t().contiguous()
        bias_k = self.linear.bias
        self._bias_k = (
            self._weight_ck.new_zeros(self.linear.out_features)
            if bias_k is None
            else bias_k.detach()
        )

    def forward(self, x: Tensor) -> Tensor:
        sum_nc: Tensor = torch.ops.skipbench.sum_positions(x)
        return self.of_sum(sum_nc, int(x.shape[2] * x.shape[3]))

    def of_sum(self, sum_nc: Tensor, positions: int) -> Tensor:
        weight_ck, bias_k = self._weight_ck, self._bias_k
        out: Tensor = torch.ops.skipbench.head(sum_nc, weight_ck, bias_k, 1 / positions)
        return out

    __call__ = forward


def _use_in_sequence(layers: nn.Sequential) -> None:
    """Put operators in the place of convolutions with a ReLU, and of a linear layer on a mean."""
    # A norm that was folded away is an Identity.
    order = [place for place, layer in enumerate(layers) if type(layer) is not nn.Identity]
    for here, behind in pairwise(order):
        match layers[here], layers[behind]:
            case nn.Conv2d() as conv, nn.ReLU() if _fits(conv, stride=1) or _fits(conv, stride=2):
                layers[here], layers[behind] = NativeConvolution(conv), nn.Identity()
    for here, between, behind in zip(order, order[1:], order[2:], strict=False):
        match layers[here], layers[between], layers[behind]:
            case nn.AdaptiveAvgPool2d(output_size=1 | (1, 1)), nn.Flatten(), nn.Linear() as last:
                if last.in_features % _VECTOR == 0:
                    layers[here], layers[between] = NativeHead(last), nn.Identity()
                    layers[behind] = nn.Identity()


def _native_stem(stem: Stem, sides: Sides) -> Stem:
    fits = _fits(stem.conv, stride=1)
    return NativeStem(stem) if fits else FusedStem(stem, sides, PackedConvolution)


def _native_block(block: Block, sides: Sides) -> Block:
    residual = block.residual
    assert isinstance(residual, Residual)
    border = block.stride != 1
    grows = residual.conv2.out_channels > residual.conv1.in_channels
    known = isinstance(block.shortcut, nn.Identity) or border
    fits = _fits(residual.conv1, stride=2 if border else 1) and _fits(residual.conv2, stride=1)
    if fits and known and border == grows:
        return NativeBlock(block)
    return FusedBlock(block, sides, PackedConvolution)


def _fits(conv: nn.Conv2d, *, stride: int) -> bool:
    shape = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
    expected = (3, 3), (stride, stride), (1, 1), (1, 1), 1
    return shape == expected and conv.out_channels % _VECTOR == 0


def _packed(conv: nn.Conv2d) -> Tensor:
    """Return the weight, in the order of the operators, and the bias behind it."""
    weight = conv.weight.detach().permute(2, 3, 1, 0)
    bias = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
    if conv.kernel_size == (3, 3):
        # 16 output channels together.
        weight = weight.reshape(-1, conv.out_channels // _VECTOR, _VECTOR).transpose(0, 1)
    return torch.cat([weight.flatten(), bias])
