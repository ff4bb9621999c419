"""The conformance suite as a whole: its checks, exemptions, faults in the code of a method."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from broken_methods import FreeGates, one_phase, outcome_of, said_of, with_net, with_policy
from torch import Tensor, nn
from toy_methods import (
    CheapAndRight,
    Exit,
    ExitNet,
    PerUnit,
    PerUnitConfig,
    StaticHalf,
    WithoutParameters,
    made,
)

from bench.errors import NotExecutable, Unsupported
from bench.method import (
    Backbone,
    Batch,
    Budget,
    DynamicNet,
    LossTerms,
    Method,
    MethodConfig,
    Output,
    Phase,
    Tags,
    Unit,
)
from bench.testing import CHECKS, check_method, checks_of


def test_the_checks_are_those_that_concern_the_method() -> None:
    def names(method: type[Method]) -> set[str]:
        return {check.name for check in checks_of(method)}

    assert names(PerUnit) == {*CHECKS} - {"calibration"}
    assert "calibration" in names(Exit)
    assert "permuted" not in names(StaticHalf)
    assert all(check.proves.endswith(".") for check in checks_of(PerUnit))
    assert len(set(CHECKS)) == len(CHECKS)


def test_nothing_is_built_before_a_check_runs() -> None:
    def build(self: Method, backbone: Backbone, config: MethodConfig) -> DynamicNet:
        raise AssertionError("built")

    assert len(checks_of(made(PerUnit, build=build))) > 10


def test_an_exempt_check_is_reported_with_its_reason_and_not_run() -> None:
    tags = Tags(decision="per unit", exempt={"macs": "the gates are free of charge"})
    outcome = outcome_of(with_policy(FreeGates, tags=tags), "macs")
    assert (outcome.status, outcome.detail) == ("exempt", "the gates are free of charge")
    outcome.require()


class Bare(DynamicNet):
    """A network of its own, with nothing that GatedResNet would have brought."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.shape = backbone.image_shape
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, backbone.num_classes),
        )

    def units(self) -> Sequence[Unit]:
        return [Unit("body", self.body, self.shape, True, "stem")]

    def forward(self, x_nchw: Tensor) -> Output:
        return Output(self.body(x_nchw), torch.ones(len(x_nchw), 1), {})

    def execute(self, x_nchw: Tensor) -> Output:
        return self(x_nchw)


def test_a_network_without_a_trunk_is_told_what_it_lacks() -> None:
    method = with_net(Bare, tags=Tags(decision="static"))
    said = said_of(method, "all_on")
    assert "Bare has no `trunk`" in said
    assert "Tags.exempt, under 'all_on'" in said
    failed = {outcome.check for outcome in check_method(method) if outcome.status == "failed"}
    assert failed == {"all_on"}


class Mute(ExitNet):
    forward_all_on = DynamicNet.forward_all_on
    forward_permuted = DynamicNet.forward_permuted

    def execute(self, x_nchw: Tensor) -> Output:
        raise NotExecutable("shares of a state cannot be skipped")


def test_what_a_network_cannot_do_needs_an_exemption_with_a_reason() -> None:
    def build(self: Method, backbone: Backbone, config: MethodConfig) -> DynamicNet:
        return Mute(backbone)

    method = made(Exit, build=build)
    failed = {o.check: o for o in check_method(method) if o.status == "failed"}
    assert set(failed) == {"all_on", "permuted", "execution", "macs"}
    assert "Mute has no way to run everything" in failed["all_on"].detail
    assert "Tags.exempt" in failed["permuted"].cause
    assert "shares of a state cannot be skipped" in failed["execution"].detail
    exempt = dict.fromkeys(failed, "by nature")
    tags = Tags(decision="exit", calibrates=True, exempt=exempt)
    assert not any(o.status == "failed" for o in check_method(made(method, tags=tags)))


def test_a_fault_in_the_code_of_a_method_is_shown_with_its_line() -> None:
    class Broken(CheapAndRight):
        def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
            raise KeyError("gates_of_nobody")

    method = made(PerUnit, phases=one_phase(Broken))
    assert "KeyError: 'gates_of_nobody' (test_testing.py, line " in said_of(method, "trains")
    execution = outcome_of(method, "execution")
    assert execution.status == "not tried" and "'trains' failed" in execution.detail
    with pytest.raises(AssertionError, match="not tried"):
        execution.require()
    assert isinstance(getattr(outcome_of(method, "trains").error, "__cause__", None), KeyError)
    assert outcome_of(method, "settings").status == "passed"


def test_an_unsupported_state_deep_inside_is_not_mistaken_for_an_exemption() -> None:
    def build(self: Method, backbone: Backbone, config: MethodConfig) -> DynamicNet:
        raise Unsupported("only for large images")

    assert "only for large images" in said_of(made(PerUnit, build=build), "trains")


def test_an_outcome_raises_for_a_test_what_it_says_for_a_person() -> None:
    with pytest.raises(AssertionError, match=r"(?s)per_unit: 'macs' failed.*too few.*Likely"):
        outcome_of(with_policy(FreeGates), "macs").require()
    outcome_of(WithoutParameters, "macs").require()


def test_checking_leaves_global_random_numbers_and_threads_as_they_were() -> None:
    torch.manual_seed(11)
    random.seed(11)
    expected = torch.rand(2).tolist(), random.random()
    torch.manual_seed(11)
    random.seed(11)
    threads = torch.get_num_threads()
    check_method(PerUnit)
    assert (torch.rand(2).tolist(), random.random()) == expected
    assert torch.get_num_threads() == threads


def test_a_method_is_checked_at_other_settings_too() -> None:
    class Strong(CheapAndRight):
        pass

    def phases(self: Method, config: MethodConfig, budget: Budget) -> Sequence[Phase]:
        assert config.strength == 0.5, "another strength was asked for"
        return one_phase(Strong)(self, config, budget)

    method = made(PerUnit, phases=phases)
    check = checks_of(method, config=PerUnitConfig(strength=0.7))[0]
    assert check.name == "metadata"
    outcomes = check_method(method(), config=PerUnitConfig(strength=0.7))
    assert "another strength" in next(o for o in outcomes if o.check == "trains").detail
