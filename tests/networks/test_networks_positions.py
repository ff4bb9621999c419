"""Where positions halt: what runs, what it costs, and what their neighbours read."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from halting_nets import images, masks_of, seasoned
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bench.measure.cost import counted_macs, macs_per_image, unit_macs
from bench.networks.halting import HaltingResNet
from bench.networks.positions import dilated


def counted_by_hand(net: HaltingResNet, mask_hw: Tensor, *, block: int) -> int:
    """Count the MACs of a block and its score, position by position."""
    width = net.blocks[block].residual.conv1.out_channels
    height, length = mask_hw.shape
    macs = 0
    for y in range(height):
        for x in range(length):
            near = mask_hw[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            if near.any():  # somebody's second convolution reads the first one here
                macs += 9 * width * width
            if mask_hw[y, x]:
                macs += 9 * width * width
                macs += 9 * width if net.policy.is_scored(block) else 0
    if net.policy.is_scored(block) and mask_hw.any():
        macs += width
    return macs


@torch.no_grad()
def test_positions_cost_what_a_count_position_by_position_gives() -> None:
    net, x = copy.deepcopy(seasoned("position")), images(4, seed=12)
    costs, masks = unit_macs(net), masks_of(net, x)
    always = sum(costs[unit.name] for unit in net.units() if unit.always_on)
    found_n = macs_per_image(net(x).executed, list(costs.values()))
    for n in range(4):
        by_hand = sum(counted_by_hand(net, mask[n], block=b) for b, mask in masks.items())
        assert found_n[n] == always + by_hand
        assert counted_macs(partial(net.execute, x[n : n + 1])) == always + by_hand
    rates = [mask.float().mean() for mask in masks.values()]
    assert len(rates) == 6 and min(rates) < 0.5 and all(0.1 < rate < 1 for rate in rates)


def test_a_mask_grows_by_one_position_in_all_directions_and_not_beyond_the_border() -> None:
    mask = torch.zeros(2, 1, 5, 4, dtype=torch.bool)
    mask[0, 0, 0, 0] = mask[1, 0, 2, 1] = True
    grown = dilated(mask)
    assert grown[0].nonzero()[:, 1:].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert grown[1, 0, 1:4, 0:3].all() and grown[1].sum() == 9


@torch.no_grad()
def test_a_position_that_has_halted_keeps_its_state_for_its_neighbours_to_read() -> None:
    policy = seasoned("position").policy
    block = seasoned("position").blocks[4]
    state, active = torch.rand(2, 32, 8, 8), torch.rand(2, 1, 8, 8) < 0.5
    out = policy.advance(block, state, policy.needed(active))
    halted = ~active.expand_as(state)
    assert torch.equal(out[halted], state[halted])
    assert not torch.equal(out[~halted], state[~halted])


def blob_or_scattered(kind: str, share: float, shape: tuple[int, int, int]) -> Tensor:
    """Return masks (N, 1, h, w) in which that share of positions is set."""
    count, height, width = shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    order = torch.rand(count, height * width)
    if kind == "blob":
        order = ((y - height / 3) ** 2 + (x - width / 3) ** 2).flatten().expand(count, -1)
    chosen = order.argsort(dim=1).argsort(dim=1) < round(share * height * width)
    return chosen.view(count, 1, height, width)


def folded(residual: nn.Module) -> nn.Module:
    twin = copy.deepcopy(residual)
    for conv, norm in ((twin.conv1, twin.bn1), (twin.conv2, twin.bn2)):
        fused = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = fused.weight, fused.bias
    twin.register_module("bn1", nn.Identity())
    twin.register_module("bn2", nn.Identity())
    return twin


@pytest.mark.parametrize("kind", ["blob", "scattered"])
@pytest.mark.parametrize("norms", ["unfolded", "folded"])
@pytest.mark.parametrize("count", [1, 3, 40])
@torch.inference_mode()
def test_every_way_to_run_a_block_gives_what_masking_gives(
    kind: str, norms: str, count: int
) -> None:
    net = seasoned("position")
    block = copy.deepcopy(net.blocks[4])
    if norms == "folded":
        block.register_module("residual", folded(block.residual))
    state = torch.rand(count, 32, 8, 8).contiguous(memory_format=torch.channels_last)
    for share in (0.0, 0.1, 0.25, 0.5, 0.75, 1.0):
        mask = blob_or_scattered(kind, share, (count, 8, 8))
        expected = F.relu(state + mask * block.residual(state))
        found = net.policy.advance_active(block, state, net.policy.needed(mask))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_map_says_where_blocks_run() -> None:
    net, x = seasoned("position"), images(2, seed=12)
    map_nhw, masks = net.position_costs(x), masks_of(net, x)
    assert map_nhw is not None
    expected = torch.zeros(2, 16, 16)
    for first, step in ((0, 1), (3, 2), (6, 4)):
        ran = torch.ones(2, 16 // step, 16 // step)
        for mask in (masks[first + 1], masks[first + 2]):
            ran += (mask.float() + dilated(mask[:, None])[:, 0].float()) / 2
        expected += ran.repeat_interleave(step, 1).repeat_interleave(step, 2)
    assert torch.equal(map_nhw, expected)


def test_where_images_halt_there_is_no_map() -> None:
    assert seasoned("image").position_costs(images(2)) is None
