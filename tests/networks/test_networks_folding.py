"""Batch norms folded into convolutions: nothing is lost, and only what may be folded is."""

from __future__ import annotations

import copy

import pytest
import torch
from gated_nets import BLOCKS, MERGES, images, per_unit_net, seasoned
from torch import Tensor, nn

from bench.networks.folding import fold_batch_norms


@pytest.mark.parametrize("merge", sorted(MERGES))
@pytest.mark.parametrize("shortcut", ["A", "B"])
@torch.no_grad()
def test_a_folded_network_computes_what_it_did_and_has_no_batch_norm_left(
    merge: str, shortcut: str
) -> None:
    net, x = per_unit_net(merge, shortcut), images(33, seed=9)
    folded = copy.deepcopy(net)
    fold_batch_norms(folded, x[:2])
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    before, after = net(x), folded(x)
    torch.testing.assert_close(after.logits, before.logits, atol=1e-4, rtol=0)
    assert torch.equal(after.executed, before.executed)
    assert torch.equal(folded.execute(x).executed, before.executed)


@torch.no_grad()
def test_folding_leaves_the_original_network_alone() -> None:
    net, x = seasoned(), images(4)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fold_batch_norms(copy.deepcopy(net), x)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert net(x).executed.shape == (4, BLOCKS + 2)


@torch.no_grad()
def test_a_norm_behind_a_linear_layer_is_folded_too() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    x = 2 * torch.randn(32, 5) + 1
    net.train()(x)
    expected = net.eval()(x)
    fold_batch_norms(net, x)
    assert isinstance(net[1], nn.Identity)
    torch.testing.assert_close(net(x), expected)


class _Odd(nn.Module):
    """A norm in front, a convolution read by two norms, a norm used twice, and a plain pair."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.BatchNorm2d(3)
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.left, self.right = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.conv2, self.conv3 = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.twice = nn.BatchNorm2d(4)
        self.pair = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x_nchw: Tensor) -> Tensor:
        h_nchw = self.conv1(self.front(x_nchw))
        h_nchw = self.left(h_nchw) * self.right(h_nchw)
        h_nchw = self.twice(self.conv2(h_nchw)) + self.twice(self.conv3(h_nchw))
        out: Tensor = self.pair(h_nchw)
        return out


@torch.no_grad()
def test_only_a_norm_that_always_follows_one_convolution_is_folded() -> None:
    torch.manual_seed(0)
    net, x = _Odd(), images(5)
    net.train()
    for _ in range(3):
        net(2 * x + 1)
    net.eval()
    expected = net(x)
    fold_batch_norms(net, x)
    left = {name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert left == {"front", "left", "right", "twice"}
    torch.testing.assert_close(net(x), expected, atol=1e-5, rtol=1e-5)
