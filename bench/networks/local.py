"""A residual at some positions of its map: what is needed where, its share, and running it.

A mask (N, 1, h, w) says at which positions of the residual's output its numbers are wanted. Its
last convolution runs there, each one before wherever the next one reads: so what is computed is
exact, edges included, and just that is counted. Owns no decision and no loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import NotApplicable, PluginError
from bench.networks.trunk import Backbone, Block, blocks_of

_ON_EACH_POSITION = (
    *(nn.Identity, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.LeakyReLU),
    *(nn.SiLU, nn.GELU, nn.Hardswish),
)


Places = tuple[Tensor, Tensor, Tensor]


class LocalResidual:
    """The residual of a block: convolutions, and behind each what acts on every position alone.

    Raises:
        NotApplicable: it is made of something else, or `after` looks beyond a position.
    """

    def __init__(self, block: Block) -> None:
        self.block = block
        self.convs: list[nn.Conv2d] = []
        self._behind: list[list[nn.Module]] = []
        for layer in _layers(block.residual):
            if isinstance(layer, nn.Conv2d) and _is_plain(layer):
                self.convs.append(layer)
                self._behind.append([])
            elif isinstance(layer, _ON_EACH_POSITION) and self.convs:
                self._behind[-1].append(layer)
            else:
                raise NotApplicable(f"{type(layer).__name__} is not known to act locally.")
        for layer in _layers(block.after):
            if not isinstance(layer, _ON_EACH_POSITION):
                raise NotApplicable(f"{type(layer).__name__} is not known to act locally.")
        if not self.convs:
            raise NotApplicable("it has no convolution.")

    @property
    def stride(self) -> tuple[int, int]:
        """How many rows and columns of its input one position of its output stands for."""
        down, along = zip(*(conv.stride for conv in self.convs), strict=True)
        return math.prod(down), math.prod(along)

    def needed(self, mask_n1hw: Tensor, size: Sequence[int]) -> list[Tensor]:
        """Return where each convolution runs (N, 1, ., .), the last one where the mask is set.

        `size` is that of the block's input, (H, W). What was not grown is the mask itself, with its
        gradient; what was is boolean.

        Raises:
            PluginError: the mask is not of the size of the residual's output.
        """
        sizes = self._sizes(size)
        if tuple(mask_n1hw.shape[2:]) != sizes[-1]:
            sides = ("x".join(map(str, side)) for side in (mask_n1hw.shape[2:], sizes[-1]))
            raise PluginError("A gate has {} positions, its residual gives {}.".format(*sides))
        masks = [mask_n1hw]
        for conv, before in zip(self.convs[:0:-1], sizes[-2::-1], strict=True):
            masks.insert(0, read_by(conv, masks[0], before))
        return masks

    def macs(self, size: Sequence[int]) -> int:
        """Return the MACs of the whole residual for an input of that size, (H, W)."""
        places = (height * width for height, width in self._sizes(size))
        return sum(cost * count for cost, count in zip(self._costs, places, strict=True))

    def share(self, needed: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Return which share (N,) of its MACs runs, each convolution where it is `needed`; the
        gradient is that of what was not grown."""
        # In float64: sums of whole numbers are exact there, so all is 1 and nothing is lost.
        spent_n = sum(
            cost * mask.double().sum(dim=(1, 2, 3))
            for cost, mask in zip(self._costs, needed, strict=True)
        )
        assert isinstance(spent_n, Tensor)
        return (spent_n / self.macs(size)).float()

    def coverage(
        self, needed: Sequence[Tensor], size: Sequence[int], image: Sequence[int]
    ) -> Tensor:
        """Return how much of it runs at each pixel of the image (N, 1, H, W): the mean is `share`,
        but for rounding, where sides halve evenly."""
        whole = self.macs(size)
        maps = (
            F.interpolate(mask.float(), size=tuple(image), mode="nearest")
            * (cost * mask[0].numel() / whole)
            for cost, mask in zip(self._costs, needed, strict=True)
        )
        return torch.stack(list(maps)).sum(dim=0)

    def at(self, needed: Sequence[Tensor], x_nchw: Tensor) -> Tensor:
        """Return its output (M, C, 1, 1) at the M positions where the last of the bools `needed` is
        set, in eval mode."""
        *before, last = needed
        for number, mask in enumerate(before):
            places = places_of(mask)
            out_mc11 = self._one(number, places, x_nchw)
            map_nhwc = out_mc11.new_zeros(len(mask), *mask.shape[2:], out_mc11.shape[1])
            map_nhwc[places] = out_mc11[:, :, 0, 0]
            x_nchw = map_nhwc.permute(0, 3, 1, 2)
        return self._one(len(before), places_of(last), x_nchw)

    def _one(self, number: int, places: Places, x_nchw: Tensor) -> Tensor:
        """Run one convolution, and what is behind it, at some positions."""
        out_mc11 = convolved_at(places, self.convs[number], x_nchw)[:, :, None, None]
        for layer in self._behind[number]:
            out_mc11 = layer(out_mc11)
        return out_mc11

    @property
    def _costs(self) -> list[int]:
        """The MACs of each convolution at one position."""
        return [conv.weight.numel() for conv in self.convs]

    def _sizes(self, size: Sequence[int]) -> list[tuple[int, int]]:
        found, height, width = list[tuple[int, int]](), *size
        for conv in self.convs:
            height, width = (
                (side + 2 * padding - kernel) // stride + 1
                for side, padding, kernel, stride in zip(
                    (height, width), _pair(conv.padding), conv.kernel_size, conv.stride, strict=True
                )
            )
            found.append((height, width))
        return found


def local_residuals(backbone: Backbone, who: str) -> list[LocalResidual]:
    """Return the residuals of all blocks of a backbone, without weights.

    Raises:
        NotApplicable: `who` decides per position, and a block cannot run at some of them.
    """
    backbone.require_maps(who)
    found = []
    for b, block in enumerate(blocks_of(backbone.without_memory())):
        try:
            found.append(LocalResidual(block))
        except NotApplicable as error:
            raise NotApplicable(
                f"{who} runs residuals at some positions only: convolutions, and what acts on each "
                f"position alone. block{b} of {backbone.name} is none: {error.message}"
            ) from None
    return found


def read_by(conv: nn.Conv2d, mask_n1hw: Tensor, size: Sequence[int]) -> Tensor:
    """Return which positions of its input, a map of that size, a convolution reads for its outputs
    at a mask."""
    if conv.kernel_size == conv.stride == (1, 1):
        return mask_n1hw
    kernel, stride, padding = conv.kernel_size, conv.stride, _pair(conv.padding)
    apart = mask_n1hw.float()
    if stride == (1, 1) and all(k == 2 * p + 1 for k, p in zip(kernel, padding, strict=True)):
        return F.max_pool2d(apart, kernel, stride=1, padding=padding) > 0
    if stride != (1, 1):
        # Output o reads inputs stride * o - padding and on: outputs lie that far apart.
        apart = F.pad(apart[:, :, :, None, :, None], (0, stride[1] - 1, 0, 0, 0, stride[0] - 1))
        apart = apart.flatten(4, 5).flatten(2, 3)
    edges = []
    for dim in (1, 0):
        behind = size[dim] + padding[dim] - apart.shape[2 + dim]
        edges += [kernel[dim] - 1 - padding[dim], behind]
    if any(edges):
        apart = F.pad(apart, edges)
    return F.max_pool2d(apart, kernel, stride=1) > 0


def places_of(mask_n1hw: Tensor) -> Places:
    """Return the positions of a mask: their images, rows and columns, (M,) each."""
    image_m, _, y_m, x_m = mask_n1hw.nonzero(as_tuple=True)
    return image_m, y_m, x_m


def convolved_at(places: Places, conv: nn.Conv2d, x_nchw: Tensor) -> Tensor:
    """Return the outputs (M, C_out) of a convolution at M positions.

    A position is a row of its channels, images lie in a border of zeros one behind the other, so
    horizontal neighbours of a position are adjacent numbers.
    """
    (high, wide), (down, along), (top, left) = conv.kernel_size, conv.stride, _pair(conv.padding)
    _, channels, height, width = x_nchw.shape
    rows_rc = F.pad(x_nchw.permute(0, 2, 3, 1), (0, 0, left, left, top, top)).reshape(-1, channels)
    (image_m, y_m, x_m), across = places, width + 2 * left
    corner_m = (image_m * (height + 2 * top) + y_m * down) * across + x_m * along
    near = across * torch.arange(high, device=corner_m.device)
    spans = rows_rc.as_strided((max(0, len(rows_rc) - wide + 1), wide * channels), (channels, 1))
    patches = spans.index_select(0, (corner_m[:, None] + near).flatten())
    patches_mpc = patches.view(len(corner_m), high * wide, channels)
    if conv.groups > 1:
        patches_mchw = patches_mpc.transpose(1, 2).reshape(-1, channels, high, wide)
        return F.conv2d(patches_mchw, conv.weight, conv.bias, groups=conv.groups).flatten(1)
    out_mc: Tensor = patches_mpc.flatten(1) @ conv.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return out_mc if conv.bias is None else out_mc + conv.bias


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """Yield what a module runs, one after the other."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        for child in module:  # `children()` leaves out what comes twice
            yield from _layers(child)
    else:
        yield module


def _is_plain(conv: nn.Conv2d) -> bool:
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str) or conv.dilation != (1, 1):
        return False
    return all(p < k for p, k in zip(conv.padding, conv.kernel_size, strict=True))


def _pair(padding: str | tuple[int, ...]) -> tuple[int, int]:
    assert not isinstance(padding, str)
    return padding[0], padding[1]
