"""Stems and blocks compiled by oneDNN, for graphs of one image: half of a small convolution's time
goes into calling it, and what is compiled for one shape is called for less.

Owns how a compiled part becomes a call in a recorded graph; what is recorded is branching.py's and
its siblings'.
"""

# Without postponed annotations: TorchScript reads the type of an attribute, not its name.

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bench.networks.kernels import Sides, kernels_available, replace_parts, sides_of
from bench.networks.resnet import Block, Projection, Residual, Stem
from bench.networks.tracing import deprecation_known, scripted, traced_with_constants

# The first call is watched for shapes, the second compiles, the third runs what was compiled.
_CALLS = 3


with deprecation_known():

    @torch.jit.interface
    class Change(nn.Module):
        """What turns a state (1, C, h, w) into another one. A call through an interface stays a
        call, so that a part keeps what was compiled for it, and nothing else is compiled."""

        def forward(self, x: Tensor) -> Tensor:  # type: ignore[empty-body]
            pass


class Call(nn.Module):
    """The call of a compiled part."""

    part: Change

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return self.part.forward(x)


class _Calls:
    """A part of a network that is nothing but the call of what it was compiled to."""

    _call: Any

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._call(x)
        return out


class CompiledStem(_Calls, Stem):
    """A folded stem for one image."""

    def __init__(self, stem: Stem, sides: Sides) -> None:
        nn.Module.__init__(self)
        self.conv, self.bn = stem.conv, stem.bn
        self._call = compiled(stem, _zeros(stem.conv, sides))


class CompiledBlock(_Calls, Block):
    """A folded block for one image, and its shortcut for when it is skipped; its residual alone
    still runs as before."""

    def __init__(self, block: Block, sides: Sides) -> None:
        nn.Module.__init__(self)
        self.c_out, self.stride = block.c_out, block.stride
        self.residual, self.shortcut = block.residual, block.shortcut
        assert isinstance(block.residual, Residual)
        example_nchw = _zeros(block.residual.conv1, sides)
        self._call = compiled(block, example_nchw)
        if isinstance(block.shortcut, Projection):
            self.shortcut = CompiledProjection(block.shortcut, example_nchw)


class CompiledProjection(_Calls, Projection):
    """A folded projection for one image."""

    def __init__(self, projection: Projection, example_nchw: Tensor) -> None:
        nn.Module.__init__(self)
        self.conv, self.bn = projection.conv, projection.bn
        self._call = compiled(projection, example_nchw)


@torch.no_grad()
def use_compiled_parts(net: nn.Module, probe_nchw: Tensor) -> None:
    """Compile every folded stem and block for single images, in place; in eval mode.

    `probe_nchw` (N, C, H, W) is run once to see the sizes of the feature maps; no weight may
    require a gradient. Where torch has no such compiler nothing changes.
    """
    if kernels_available(probe_nchw) and hasattr(torch.jit, "enable_onednn_fusion"):
        replace_parts(net, sides_of(net, probe_nchw), stem=CompiledStem, block=CompiledBlock)


def compiled(module: nn.Module, example_nchw: Tensor) -> Any:
    """Return the call of `module`, compiled for inputs of the shape (1, C, h, w) of the example."""
    part = traced_with_constants(module, example_nchw)
    with torch.inference_mode(), _fusion():
        for _ in range(_CALLS):
            part(example_nchw)
    return scripted(Call(part).eval())


@contextmanager
def _fusion() -> Iterator[None]:
    jit: Any = torch.jit
    before = jit.onednn_fusion_enabled()
    with deprecation_known():
        jit.enable_onednn_fusion(True)
        try:
            yield
        finally:
            jit.enable_onednn_fusion(before)


def _zeros(conv: nn.Conv2d, sides: Sides) -> Tensor:
    zeros_nchw = conv.weight.new_zeros(1, conv.in_channels, *sides[conv])
    return zeros_nchw.contiguous(memory_format=torch.channels_last)
