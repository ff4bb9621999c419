"""Checks of the states of a network on broken methods: each fault is caught, in plain words."""

from __future__ import annotations

import torch
from broken_methods import one_phase, said_of, with_net, with_policy
from torch import Tensor
from toy_methods import (
    CheapAndRight,
    Exit,
    ExitNet,
    Gates,
    made,
)

from bench.method import (
    Backbone,
    Batch,
    DynamicNet,
    LossTerms,
    Method,
    MethodConfig,
    Output,
)
from bench.networks.execution import GateResidual
from bench.networks.gated import GatedResNet
from bench.networks.trunk import Block


class Drifting(CheapAndRight):
    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        net.policy.shift += 0.05
        return super().loss(net, batch, progress)


class ShiftedGates(Gates):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.shift = 0.0

    def score(self, index: int, h_nchw: Tensor) -> Tensor:
        return super().score(index, h_nchw) * (1 + self.shift) + self.shift


def test_state_that_does_not_travel_with_the_weights_is_caught() -> None:
    said = said_of(with_policy(ShiftedGates, phases=one_phase(Drifting)), "round_trip")
    assert "before and after saving" in said
    assert "register_buffer" in said


def test_thresholds_that_are_no_buffers_are_caught() -> None:
    class Forgetful(ExitNet):
        def __init__(self, backbone: Backbone) -> None:
            super().__init__(backbone)
            kept = self.thresholds
            del self.thresholds
            self.register_buffer("thresholds", kept, persistent=False)

    def build(self: Method, backbone: Backbone, config: MethodConfig) -> DynamicNet:
        return Forgetful(backbone)

    said = said_of(made(Exit, build=build), "round_trip")
    assert "operating point 'exit" in said


def test_two_names_for_one_tensor_cannot_be_saved() -> None:
    class Twice(GatedResNet):
        def __init__(self, backbone: Backbone) -> None:
            super().__init__(backbone, Gates(backbone))
            self.again = self.trunk

    assert "cannot be saved" in said_of(with_net(Twice), "round_trip")


def test_a_shipped_network_that_computes_something_else_is_caught() -> None:
    class Lossy(GatedResNet):
        def inference_net(self, *, dead_blocks: frozenset[str] = frozenset()) -> DynamicNet:
            net = super().inference_net(dead_blocks=dead_blocks)
            torch.nn.init.zeros_(net.trunk.head.linear.weight)
            return net

    said = said_of(with_net(lambda b: Lossy(b, Gates(b))), "inference_net")
    assert "forward of inference_net" in said


def test_following_others_must_not_change_the_cost() -> None:
    class Stubborn(GatedResNet):
        def forward_permuted(self, x_nchw: Tensor, order_n: Tensor) -> Output:
            return self.forward_all_on(x_nchw)

    said = said_of(with_net(lambda b: Stubborn(b, Gates(b))), "permuted")
    assert "by the decisions of others a batch costs" in said


def test_blocks_that_do_something_though_closed_or_less_though_open_are_caught() -> None:
    class Leaking(GateResidual):
        def masked(
            self, block: Block, shortcut: Tensor, residual: Tensor, gate_n: Tensor
        ) -> Tensor:
            return super().masked(block, shortcut, residual, 0.9 * gate_n + 0.01)

    method = with_net(lambda b: GatedResNet(b, Gates(b), merge=Leaking()))
    assert "all off and stem, shortcuts, head differ" in said_of(method, "all_off")
    said = said_of(method, "all_on")
    assert "must be equal bit for bit" in said
