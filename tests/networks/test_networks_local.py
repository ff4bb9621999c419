"""Residuals at some positions: what each convolution reads, computes and costs there."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from bench.errors import NotApplicable, PluginError
from bench.networks.local import (
    LocalResidual,
    convolved_at,
    local_residuals,
    places_of,
    read_by,
)
from bench.networks.trunk import Backbone, Block, blocks_of

SHAPES = [
    *((1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1), (3, 3, 0)),
    *((5, 1, 2), (5, 2, 1), (2, 1, 0), (2, 2, 1), (4, 3, 2)),
]
SIDES = [(8, 8), (7, 10), (5, 4)]
every_window = pytest.mark.parametrize(("kernel", "stride", "padding"), SHAPES)


def some(count: int, *size: int, share: float = 0.3) -> Tensor:
    draws = torch.Generator().manual_seed(count)
    return torch.rand(count, 1, *size, generator=draws) < share


def block_of(name: str, index: int, side: int = 16) -> Block:
    return blocks_of(Backbone(name, 10, (3, side, side)).build().eval())[index]


@every_window
@pytest.mark.parametrize("side", SIDES)
def test_what_a_convolution_reads_is_what_its_outputs_depend_on(
    kernel: int, stride: int, padding: int, side: tuple[int, int]
) -> None:
    conv = nn.Conv2d(1, 1, kernel, stride, padding, bias=False)
    nn.init.ones_(conv.weight)
    x = torch.zeros(6, 1, *side, requires_grad=True)
    out = conv(x)
    mask = some(6, *out.shape[2:])
    (out * mask).sum().backward()
    assert torch.equal(read_by(conv, mask, side).bool(), x.grad > 0)


@every_window
@pytest.mark.parametrize(("c_in", "c_out", "groups"), [(6, 4, 1), (6, 4, 2), (6, 6, 6)])
@torch.no_grad()
def test_a_convolution_at_positions_gives_what_it_gives_there(
    kernel: int, stride: int, padding: int, c_in: int, c_out: int, groups: int
) -> None:
    for bias, side in itertools.product((True, False), SIDES):
        conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=groups, bias=bias)
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(3, c_in, *side).contiguous(memory_format=layout)
            whole = conv(x)
            for share in (0.0, 0.3, 1.0):
                mask = some(3, *whole.shape[2:], share=share)
                found_mc = convolved_at(places_of(mask), conv, x)
                expected_mc = whole.permute(0, 2, 3, 1)[mask[:, 0]]
                torch.testing.assert_close(found_mc, expected_mc, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("place", "first"), [((3, 4), 9), ((0, 0), 4), ((0, 4), 6), ((7, 7), 4)])
@pytest.mark.parametrize("index", [0, 1])
def test_one_position_costs_its_neighbours_once_and_itself(
    place: tuple[int, int], first: int, index: int
) -> None:
    local, side = LocalResidual(block_of("resnet8", index)), 8 * (1 + index)
    mask = torch.zeros(1, 1, 8, 8)
    mask[0, 0, place[0], place[1]] = 1
    assert [int(one.sum()) for one in local.needed(mask, (side, side))] == [first, 1]
    conv1, conv2 = local.convs
    spent = first * conv1.weight.numel() + conv2.weight.numel()
    share = local.share(local.needed(mask, (side, side)), (side, side))
    assert share.item() * local.macs((side, side)) == pytest.approx(spent)


def test_a_bottleneck_runs_its_first_convolution_where_the_second_reads() -> None:
    # Block 3 is the first of the second stage: its second convolution has a stride of 2.
    local = LocalResidual(block_of("torchvision/resnet50", 3, side=64))
    assert local.stride == (2, 2)
    mask = torch.zeros(1, 1, 8, 8)
    mask[0, 0, 2, 5] = mask[0, 0, 0, 0] = 1
    first, second, third = local.needed(mask, (16, 16))
    assert second is mask and third is mask  # a 1x1 convolution reads what it writes
    rows, columns = first[0, 0].nonzero(as_tuple=True)
    found = sorted(zip(rows.tolist(), columns.tolist(), strict=True))
    expected = [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert found == sorted([*expected, *itertools.product((3, 4, 5), (9, 10, 11))])
    spent = 13 * 128 * 256 + 2 * (9 * 128 * 128 + 128 * 512)
    share = local.share((first, second, third), (16, 16)).item()
    assert share * local.macs((16, 16)) == pytest.approx(spent)


def test_all_positions_are_a_share_of_exactly_one() -> None:
    for name, side in (("resnet20", 19), ("torchvision/resnet50", 48)):
        backbone = Backbone(name, 10, (3, side, side))
        pairs = zip(local_residuals(backbone, "x"), *backbone.layout, strict=False)
        for local, state, behind in pairs:
            ones = torch.ones(2, 1, *behind[1:])
            for share in (1.0, 0.0):
                needed = local.needed(share * ones, state[1:])
                assert local.share(needed, state[1:]).tolist() == [share, share]


def test_the_gradient_of_a_share_is_that_of_what_was_not_grown() -> None:
    basic, deep = (block_of("resnet8", 0), block_of("torchvision/resnet50", 0))
    for block, carried in ((basic, slice(1, 2)), (deep, slice(1, 3))):
        local = LocalResidual(block)
        mask = some(1, 8, 8).float().requires_grad_()
        local.share(local.needed(mask, (8, 8)), (8, 8)).sum().backward()
        costs = [conv.weight.numel() for conv in local.convs]
        expected = sum(costs[carried]) / local.macs((8, 8))
        torch.testing.assert_close(mask.grad, torch.full_like(mask, expected))


def test_the_map_of_a_residual_has_its_share_as_mean() -> None:
    local, size = LocalResidual(block_of("resnet8", 1)), (16, 16)
    needed = local.needed(some(3, 8, 8), size)
    covered = local.coverage(needed, size, (32, 32))
    assert covered.shape == (3, 1, 32, 32)
    torch.testing.assert_close(covered.mean(dim=(1, 2, 3)), local.share(needed, size))


@torch.no_grad()
def test_layers_that_come_twice_run_twice() -> None:
    # torchvision's blocks have one ReLU for all places.
    block, x = block_of("torchvision/resnet50", 3, side=32), torch.randn(2, 256, 8, 8)
    whole, mask = block.residual(x), some(2, 4, 4)
    local = LocalResidual(block)
    found = local.at(local.needed(mask, (8, 8)), x)[:, :, 0, 0]
    expected = whole.permute(0, 2, 3, 1)[mask[:, 0]]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


class Squeezed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean(dim=(2, 3), keepdim=True)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (Squeezed(), "Squeezed"),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2), "Conv2d"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "Conv2d"),
        (nn.Conv2d(4, 4, 3, padding="same"), "Conv2d"),
        (nn.Conv2d(4, 4, 1, padding=1), "Conv2d"),
        (nn.AvgPool2d(3, 1, 1), "AvgPool2d"),
        (nn.GroupNorm(2, 4), "GroupNorm"),
    ],
)
def test_what_looks_beyond_its_position_is_refused_by_name(layer: nn.Module, name: str) -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    for block in (Block(nn.Sequential(conv, layer)), Block(conv, after=layer)):
        if block.residual is conv and isinstance(layer, nn.Conv2d):
            name = "Conv2d"
        with pytest.raises(NotApplicable, match=f"{name} is not known to act locally"):
            LocalResidual(block)
    with pytest.raises(NotApplicable, match="no convolution"):
        LocalResidual(Block(nn.Sequential()))


def test_a_backbone_without_maps_or_with_other_residuals_is_refused_with_the_block() -> None:
    pytest.importorskip("timm")
    with pytest.raises(NotApplicable, match=r"the method needs maps .* are tokens"):
        local_residuals(Backbone("timm/vit_tiny_patch4_32@2", 10, (3, 32, 32)), "the method")
    with pytest.raises(NotApplicable, match="block0 of timm/efficientnet_lite0 is none"):
        local_residuals(Backbone("timm/efficientnet_lite0", 10, (3, 32, 32)), "the method")


def test_a_mask_of_another_size_is_named() -> None:
    local = LocalResidual(block_of("resnet8", 1))
    with pytest.raises(PluginError, match="A gate has 16x16 positions, its residual gives 8x8"):
        local.needed(torch.ones(1, 1, 16, 16), (16, 16))


def test_nothing_of_a_residual_is_changed_by_running_a_part_of_it() -> None:
    block = block_of("resnet8", 0)
    before, x = copy.deepcopy(block.state_dict()), torch.randn(2, 16, 8, 8)
    given = x.clone()
    local = LocalResidual(block)
    with torch.no_grad():
        local.at(local.needed(some(2, 8, 8), (8, 8)), x)
    assert torch.equal(x, given)
    assert all(torch.equal(value, before[key]) for key, value in block.state_dict().items())
