"""Checks of the two paths on broken methods: each fault is caught, in plain words."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from broken_methods import FreeGates, said_of, with_net, with_policy
from torch import Tensor
from toy_methods import ByContrast, Gates

from bench.method import Backbone, Output, Unit
from bench.networks.execution import GateResidual
from bench.networks.gated import GatedResNet
from bench.networks.policy import Decisions, Policy, straight_through
from bench.networks.trunk import Block


class BatchGates(Gates):
    def score(self, index: int, h_nchw: Tensor) -> Tensor:
        z_n = super().score(index, h_nchw)
        return z_n - z_n.mean()


def test_a_decision_that_depends_on_batch_mates_is_caught() -> None:
    method = with_policy(BatchGates)
    said = said_of(method, "batch_independence")
    assert "shuffled batches of 1" in said
    assert "over the batch" in said
    assert "of 4 images, first at 'block1'" in said


class Halving(GateResidual):
    def skipped(self, block: Block, shortcut: Tensor) -> Tensor:
        return super().skipped(block, shortcut) * 0.5


def test_paths_that_compute_different_things_are_caught_with_the_difference() -> None:
    method = with_net(
        lambda backbone: GatedResNet(backbone, ByContrast(backbone.num_blocks), merge=Halving())
    )
    said = said_of(method, "execution")
    assert "execute and forward differ by up to" in said
    assert "of 24 images" in said
    assert "skipping loop" in said


class OtherwiseWhenSkipping(GatedResNet):
    def execute(self, x_nchw: Tensor) -> Output:
        gates_nb = torch.ones(len(x_nchw), len(self.blocks))
        return self.execute_with(x_nchw, gates_nb)


def test_paths_that_decide_differently_are_caught_with_the_unit() -> None:
    said = said_of(with_net(lambda b: OtherwiseWhenSkipping(b, Gates(b))), "execution")
    assert "run other units" in said
    assert "of 24 images, first at 'block" in said
    assert "decides on other states" in said


def test_a_cost_that_is_not_counted_is_caught_with_the_macs() -> None:
    said = said_of(with_policy(FreeGates), "macs")
    # Five linear layers of 16 to 1, 32 to 1 and 64 to 1 channels.
    assert f"{16 + 16 + 32 + 32 + 64} per image too few" in said
    assert "Policy.units" in said


class RandomGates(Gates):
    def score(self, index: int, h_nchw: Tensor) -> Tensor:
        z_n = super().score(index, h_nchw)
        return z_n + torch.randn_like(z_n)


def test_random_numbers_in_evaluation_are_caught() -> None:
    method = with_policy(RandomGates)
    said = said_of(method, "repeatable")
    assert "two calls of forward run other units" in said
    assert "self.training" in said
    assert "global generators" in said_of(method, "side_effects")


class NearlyOne(Gates):
    def decide(self, index: int, h_nchw: Tensor) -> Tensor:
        soft_n = torch.sigmoid(self.score(index, h_nchw))
        return (soft_n > 0.5).float() + soft_n - soft_n.detach()


class Column(Gates):
    def decide(self, index: int, h_nchw: Tensor) -> Tensor:
        return super().decide(index, h_nchw)[:, None]


class Soft(Gates):
    most = 1.0

    def decide(self, index: int, h_nchw: Tensor) -> Tensor:
        return self.most * torch.sigmoid(self.score(index, h_nchw))


class Twice(Soft):
    most = 2.0


def test_a_gate_that_is_one_only_up_to_rounding_is_caught_with_the_way_out() -> None:
    said = said_of(with_policy(NearlyOne), "outputs")
    assert "0.9999999 or 1e-8 after rounding" in said and "hard + (soft - soft.de" in said


def test_a_gate_of_another_shape_is_named_with_its_block() -> None:
    said = said_of(with_policy(Column), "trains")
    assert "The gate of block 1 has shape (8, 1), not (N,)." in said and "flatten()" in said


def test_shares_above_one_are_caught() -> None:
    said = said_of(with_policy(Twice), "outputs")
    assert "a share is from 0 to 1" in said
    assert "soft gates" in said


def test_a_gate_that_stays_soft_in_evaluation_is_called_so() -> None:
    said = said_of(with_policy(Soft), "outputs")
    assert "of 'block" in said and "for an image" in said
    assert "a gate is soft in eval mode" in said


def test_names_that_no_record_can_hold_are_caught() -> None:
    class Named(GatedResNet):
        def units(self) -> Sequence[Unit]:
            return [u._replace(name=u.name.replace("block", "Block")) for u in super().units()]

    said = said_of(with_net(lambda b: Named(b, Gates(b))), "record")
    assert "a record cannot hold block_rates" in said and "are called block0, block1" in said


def test_a_copy_for_timing_that_computes_something_else_is_caught() -> None:
    class Other(Gates):
        def __deepcopy__(self, memo: dict[int, object]) -> Policy:
            other = Gates.__new__(Gates)
            other.__dict__ = copy.deepcopy(self.__dict__, memo)
            for net in other.nets.values():
                torch.nn.init.constant_(net.bias, -100.0)
            return other

    assert "ran other units than the masked path" in said_of(with_policy(Other), "fast_copy")


def test_an_evaluation_that_leaves_traces_is_caught() -> None:
    class Counting(Gates):
        def __init__(self, backbone: Backbone) -> None:
            super().__init__(backbone)
            self.register_buffer("calls", torch.zeros(()))

        def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> Decisions:
            self.calls.add_(1)
            return super().begin(x_nchw, stem_nchw)

    assert "changes 'policy.calls' in eval mode" in said_of(with_policy(Counting), "side_effects")


def test_a_straight_through_gate_is_exactly_zero_or_one() -> None:
    z = torch.linspace(-5, 5, 1001, requires_grad=True)
    assert set(straight_through(z > 0, torch.sigmoid(z)).tolist()) == {0.0, 1.0}
