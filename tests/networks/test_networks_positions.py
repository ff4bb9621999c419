"""Where positions halt: what runs, what it costs, and what their neighbours read."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from halting_nets import images, masks_of, policy_of, seasoned
from torch import Tensor

from bench.measure.cost import counted_macs, macs_per_image, unit_macs
from bench.networks.halting import HaltingResNet
from bench.networks.positions import add_residual_at, dilated
from bench.networks.resnet import Backbone, Residual


def counted_by_hand(net: HaltingResNet, mask_hw: Tensor, *, block: int) -> int:
    """Count the MACs of a block and its score, position by position."""
    residual = net.blocks[block].residual
    assert isinstance(residual, Residual)
    width = residual.conv1.out_channels
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


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
@torch.no_grad()
def test_a_residual_at_some_positions_is_the_residual_at_these_positions(share: float) -> None:
    draws = torch.Generator().manual_seed(3)
    block = seasoned("position").blocks[4]
    assert isinstance(block.residual, Residual)
    for shape in ((3, 32, 8, 8), (1, 32, 5, 9)):
        state = torch.rand(shape, generator=draws)
        mask = torch.rand(shape[0], 1, *shape[2:], generator=draws) < share
        mask[0, 0, 0, -1] = share > 0  # a corner
        expected = torch.where(mask, block(state), state)
        found = add_residual_at(block.residual, state.clone(), mask)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(found[~mask.expand_as(found)], state[~mask.expand_as(state)])


@torch.no_grad()
def test_a_position_that_has_halted_keeps_its_state_for_its_neighbours_to_read() -> None:
    policy = seasoned("position").policy
    block = seasoned("position").blocks[4]
    state, active = torch.rand(2, 32, 8, 8), torch.rand(2, 1, 8, 8) < 0.5
    out = policy.advance(block, state, active)
    halted = ~active.expand_as(state)
    assert torch.equal(out[halted], state[halted])
    assert not torch.equal(out[~halted], state[~halted])


@torch.no_grad()
def test_images_that_are_no_power_of_two_a_side_halt_by_position_too() -> None:
    shape = (3, 9, 11)
    backbone = Backbone("resnet20", 10, shape)
    net = HaltingResNet(backbone, policy_of("position", backbone, bias=0.0))
    net.load_state_dict(seasoned("position").state_dict())
    x = images(7, shape=shape)
    masked, skipping = net.eval()(x), net.execute(x)
    assert torch.equal(skipping.executed, masked.executed)
    torch.testing.assert_close(skipping.logits, masked.logits, atol=1e-4, rtol=0)
