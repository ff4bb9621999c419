"""Perturbing: policies that are hard to move are brought to decide by the image all the same."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from toy_methods import ByContrast, Gates

from bench.method import Backbone, Unit
from bench.networks.gated import GatedResNet
from bench.networks.policy import Policy, UpFront
from bench.testing.perturbation import Spread, gated_columns, perturb, spread_of
from bench.testing.synthetic import CLASSES, SHAPE

BACKBONE = Backbone("resnet14", CLASSES, SHAPE)


def perturbed(policy: Policy) -> tuple[GatedResNet, Spread]:
    torch.manual_seed(0)
    net = GatedResNet(BACKBONE, policy).eval()
    return net, perturb(net, lambda: [net])


class FarOff(Policy):
    """All gates at once, from a bias beside which the image hardly counts."""

    def __init__(self) -> None:
        super().__init__([False] * BACKBONE.num_blocks)
        self.bias = nn.Parameter(torch.full((1,), 4.0))

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        z_n = self.bias + 1e-2 * x_nchw.mean(dim=(1, 2, 3))
        gates_ng = (z_n > 0).float()[:, None].expand(-1, len(self.gated))
        return UpFront(gates_ng, always_on=self.always_on)

    def units(self) -> Sequence[Unit]:
        return ()


class InABuffer(ByContrast):
    """Decides by a threshold that no image reaches and no parameter moves."""

    def __init__(self) -> None:
        super().__init__(BACKBONE.num_blocks)
        self.register_buffer("threshold", torch.full((1,), 20.0))

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        runs_n = (x_nchw.std(dim=(1, 2, 3)) >= self.threshold).float()
        gates_ng = runs_n[:, None].expand(-1, len(self.gated))
        return UpFront(self.spread(gates_ng), always_on=self.always_on)


@pytest.mark.parametrize("policy", [FarOff, InABuffer])
def test_a_policy_that_says_the_same_of_every_image_is_brought_to_decide(
    policy: type[Policy],
) -> None:
    torch.manual_seed(0)
    assert not spread_of(GatedResNet(BACKBONE, policy()).eval()).differs
    net, spread = perturbed(policy())
    assert spread.balanced
    assert spread_of(net) == spread


def test_gates_that_read_the_state_get_several_masks_that_rounding_cannot_turn() -> None:
    net, spread = perturbed(Gates(BACKBONE))
    assert spread.firmly_mixed
    assert len(gated_columns(net)) == 5


def test_what_only_training_needs_is_left_alone() -> None:
    torch.manual_seed(0)
    net = GatedResNet(BACKBONE, Gates(BACKBONE)).eval()
    net.training_only["guide"] = nn.Linear(2, 2)
    before = net.training_only["guide"].weight.detach().clone()
    perturb(net, lambda: [net])
    assert torch.equal(net.training_only["guide"].weight, before)


def test_a_network_that_cannot_be_moved_comes_back_as_it_was() -> None:
    torch.manual_seed(0)
    net = GatedResNet(BACKBONE, Deaf()).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert not perturb(net, lambda: [net]).differs
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


class Deaf(FarOff):
    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        gates_ng = torch.zeros(len(x_nchw), len(self.gated))
        return UpFront(gates_ng, always_on=self.always_on)
