"""Batch-norm statistics under the decisions of inference, of the images that run a block."""

from __future__ import annotations

import copy

import pytest
import torch
from gated_nets import images, per_unit_net, seasoned
from torch import Tensor, nn

from bench.data.augment import Batch
from bench.networks.gated import GatedResNet
from bench.training.statistics import reestimate


def _batch(count: int, seed: int) -> Batch:
    index_n = torch.arange(count)
    return Batch(images(count, seed) * 2 + 1, index_n % 10, index_n)


def _inputs(net: GatedResNet, norm: nn.Module, x_nchw: Tensor) -> Tensor:
    """Return what a norm is given while the network really skips with its own statistics."""
    seen: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    with torch.inference_mode():
        net.execute(x_nchw)
    handle.remove()
    return torch.cat(seen)


def test_the_statistics_of_a_dense_network_are_those_of_all_images() -> None:
    net = copy.deepcopy(seasoned())
    assert reestimate(net, [_batch(40, 1), _batch(20, 2)]) == 60
    x_nchw = torch.cat([_batch(40, 1).x_nchw, _batch(20, 2).x_nchw])
    given = net.trunk.stem.conv(x_nchw)
    torch.testing.assert_close(net.trunk.stem.bn.running_mean, given.mean(dim=(0, 2, 3)))


def test_a_block_sees_only_the_images_that_run_it_by_the_decisions_of_inference() -> None:
    net = copy.deepcopy(per_unit_net("residual", "A"))
    batch = _batch(64, 8)
    # One batch twice: afterwards the statistics are those of the very states that it has.
    reestimate(net, [batch])
    for _ in range(8):
        reestimate(net, [batch])
    gated = net.policy.gated[0]
    norm = net.blocks[gated].residual.bn1
    given = _inputs(net, norm, batch.x_nchw)
    assert 0 < len(given) < 64
    torch.testing.assert_close(norm.running_mean, given.mean(dim=(0, 2, 3)), atol=1e-3, rtol=1e-3)


def test_a_norm_that_no_image_reaches_keeps_its_statistics() -> None:
    net = copy.deepcopy(per_unit_net("residual", "A"))
    gated = net.policy.gated[0]
    with torch.no_grad():
        net.policy.nets[gated].bias.fill_(-1e6)
    norm = net.blocks[gated].residual.bn1
    before = norm.running_mean.clone()
    reestimate(net, [_batch(32, 3)])
    assert torch.equal(norm.running_mean, before)


@pytest.mark.parametrize("mode", [True, False])
def test_modes_momentum_weights_and_random_numbers_are_left_alone(mode: bool) -> None:
    net = copy.deepcopy(per_unit_net("output", "B")).train(mode)
    weights = [weight.clone() for weight in net.parameters()]
    torch.manual_seed(0)
    reestimate(net, [_batch(32, 3)])
    assert torch.initial_seed() == 0
    assert all(module.training is mode for module in net.modules())
    assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    assert all(map(torch.equal, weights, net.parameters()))
