"""Checks of training, settings and claims on broken methods: each fault is caught, in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from broken_methods import one_phase, outcome_of, said_of, with_net, with_policy
from pydantic import ConfigDict
from torch import Tensor
from toy_methods import (
    ByContrast,
    CheapAndRight,
    Exit,
    Gates,
    PerUnit,
    made,
)

from bench.method import (
    Batch,
    Budget,
    DynamicNet,
    LossTerms,
    Method,
    MethodConfig,
    Phase,
    Tags,
)
from bench.networks.gated import GatedResNet
from bench.networks.policy import UpFront
from methods.sdn import Sdn, SdnConfig


class DeafGates(Gates):
    def decide(self, index: int, h_nchw: Tensor) -> Tensor:
        return super().decide(index, h_nchw).detach()


def test_a_gate_without_gradient_is_caught_by_name() -> None:
    said = said_of(with_policy(DeafGates), "gradient")
    assert "10 of" in said
    assert "policy.nets.1.weight" in said
    assert "straight-through" in said


def test_only_a_trunk_that_was_trained_before_may_stay_frozen() -> None:
    assert outcome_of(Sdn, "gradient", training="ic-only").status == "passed"

    class FromScratch(Sdn):
        def starts_from_dense(self, config: SdnConfig) -> bool:
            return False

    assert (
        "trunk.stem.conv.weight" in outcome_of(FromScratch, "gradient", training="ic-only").detail
    )


@pytest.mark.parametrize(
    ("exempt", "words"),
    [
        ({"executon": "because"}, "'executon', which is no check. 'execution' was meant"),
        ({"xyz": "because"}, "known are metadata, settings"),
        ({"execution": " "}, "no reason why 'execution'"),
        ({"metadata": "no paper"}, "No method is exempt from 'metadata'"),
    ],
)
def test_an_exemption_must_name_a_check_and_a_reason(exempt: dict[str, str], words: str) -> None:
    method = made(PerUnit, tags=Tags(decision="per unit", exempt=exempt))
    assert words in said_of(method, "metadata")


def test_phases_that_do_not_add_up_are_caught_with_their_epochs() -> None:
    def phases(self: Method, config: MethodConfig, budget: Budget) -> Sequence[Phase]:
        half, rest = round(budget.epochs / 2), round(budget.epochs / 2)
        return [
            CheapAndRight(name, epochs=n, batch_size=8, optimizer=budget.optimizer)
            for name, n in (("first", half), ("second", rest))
        ]

    said = said_of(made(PerUnit, phases=phases), "budget")
    assert "recipe 'smoke' and 1 epochs the phases add up to 0: first 0, second 0" in said


def test_tags_and_gates_must_agree() -> None:
    static = made(PerUnit, tags=Tags(decision="static"))
    assert "5 units have a gate, from 'block1' on" in said_of(static, "decisions")
    dense = with_net(GatedResNet, tags=Tags(decision="up front"))
    assert "every unit always runs" in said_of(dense, "decisions")


class SameForAll(ByContrast):
    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        gates_ng = torch.zeros(len(x_nchw), len(self.gated))
        return UpFront(self.spread(gates_ng), always_on=self.always_on)


def test_a_decision_that_is_the_same_for_all_images_is_caught() -> None:
    said = said_of(with_policy(lambda b: SameForAll(b.num_blocks)), "decisions")
    assert "the same units run for all of 32 images" in said
    assert "0% of the gated ones" in said


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda total: total * torch.nan, "is nan"),
        (lambda total: total.detach(), "depends on no parameter"),
        (lambda total: total[None], "has shape (1,)"),
    ],
)
def test_a_loss_that_cannot_be_descended_is_caught(
    broken: Callable[[Tensor], Tensor], words: str
) -> None:
    class Broken(CheapAndRight):
        def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
            return LossTerms(broken(super().loss(net, batch, progress).total))

    assert words in said_of(made(PerUnit, phases=one_phase(Broken)), "trains")


def test_a_choice_that_does_not_train_is_named() -> None:
    class Fancy(CheapAndRight):
        def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
            terms = super().loss(net, batch, progress)
            return LossTerms(terms.total, {"loss": terms.total.log() * torch.inf})

    def phases(self: Method, config: MethodConfig, budget: Budget) -> Sequence[Phase]:
        kind = Fancy if config.flavour == "fancy" else CheapAndRight
        return [kind("main", epochs=budget.epochs, batch_size=8, optimizer=budget.optimizer)]

    said = said_of(made(PerUnit, phases=phases), "options")
    assert "and flavour=fancy" in said
    assert "'loss'" in said


def test_settings_that_accept_anything_are_caught() -> None:
    class Loose(MethodConfig):
        model_config = ConfigDict(allow_inf_nan=True)
        strength: float = 1.0

    class Careless(MethodConfig):
        model_config = ConfigDict(extra="ignore")

    assert "strength=inf is accepted" in said_of(made(PerUnit, Config=Loose), "settings")
    said = said_of(made(PerUnit, Config=Careless), "settings")
    assert "no_such_setting=1 is accepted; a misspelt setting" in said


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"name": "my method"}, "cannot be a method's name"),
        ({"contract": 0}, "written for version 0 of the contract; this is 1"),
        ({"name": "all"}, "none of all, none, shallower, train"),
        ({"tags": Tags(decision="per unit", reconstructed=("strenght",))}, "'strength' was meant"),
        ({"tags": Tags(decision="per unit", calibrates=True)}, "Tags.calibrates is True"),
        ({"tags": Tags(decision="sometimes")}, "Tags.decision is 'sometimes'"),  # type: ignore[arg-type]
        ({"calibrate": Exit.calibrate}, "It has a calibrate of its own"),
    ],
)
def test_what_a_method_says_of_itself_must_be_true(changed: dict[str, Any], words: str) -> None:
    assert words in said_of(made(PerUnit, **changed), "metadata")


def test_a_calibration_that_draws_lots_or_trains_is_caught() -> None:
    def drawn(self: Method, net: DynamicNet, config: MethodConfig, held_out: object) -> None:
        net.thresholds.copy_(0.3 + 0.1 * torch.rand(2))

    def training(self: Method, net: DynamicNet, config: MethodConfig, held_out: object) -> None:
        with torch.no_grad():
            net.exit.weight.add_(1)

    assert "chooses otherwise a second time" in said_of(made(Exit, calibrate=drawn), "calibration")
    assert "changes the weights, at 'exit.weight'" in said_of(
        made(Exit, calibrate=training), "calibration"
    )
