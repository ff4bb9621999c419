"""The conformance suite on broken methods: each fault is caught by its check, in plain words."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from pydantic import ConfigDict
from torch import Tensor, nn
from toy_methods import (
    ByContrast,
    CheapAndRight,
    Exit,
    ExitNet,
    GateDecisions,
    Gates,
    PerUnit,
    PerUnitConfig,
    StaticHalf,
    Toy,
    WithoutParameters,
    made,
    straight_through,
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
    Source,
    Tags,
    Unit,
)
from bench.networks.execution import GateResidual
from bench.networks.gated import GatedResNet
from bench.networks.policy import Decisions, Policy, UpFront
from bench.networks.resnet import Block
from bench.testing import CHECKS, Outcome, check_method, checks_of, workbench


@pytest.fixture(autouse=True)
def one_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try methods on one backbone only: a fault that is there shows on the first."""
    monkeypatch.setattr(workbench, "_BACKBONES", (("resnet14", "B"),))


def outcome_of(method: type[Method], check: str) -> Outcome:
    return next(found for found in checks_of(method) if found.name == check).run()


def said_of(method: type[Method], check: str) -> str:
    """Return what a failed check says, on one line."""
    outcome = outcome_of(method, check)
    assert outcome.status == "failed", outcome
    return f"{outcome.detail} {outcome.cause}"


def with_policy(make: Callable[[Backbone], Policy], **changed: Any) -> type[Method]:
    """Return a method of gates per unit with another policy."""

    def build(self: Method, backbone: Backbone, config: MethodConfig) -> DynamicNet:
        return GatedResNet(backbone, make(backbone))

    return made(PerUnit, build=build, **changed)


def with_net(make: Callable[[Backbone], DynamicNet], **changed: Any) -> type[Method]:
    def build(self: Method, backbone: Backbone, config: MethodConfig) -> DynamicNet:
        return make(backbone)

    return made(Toy, name="own_net", build=build, **changed)


def test_the_checks_are_those_that_concern_the_method() -> None:
    def names(method: type[Method]) -> set[str]:
        return {check.name for check in checks_of(method)}

    assert names(PerUnit) == {*CHECKS} - {"calibration", "derivation"}
    assert "calibration" in names(Exit)
    assert "derivation" in names(StaticHalf)
    assert "permuted" not in names(StaticHalf)
    assert all(check.proves.endswith(".") for check in checks_of(PerUnit))
    assert len(set(CHECKS)) == len(CHECKS)


def test_nothing_is_built_before_a_check_runs() -> None:
    def build(self: Method, backbone: Backbone, config: MethodConfig) -> DynamicNet:
        raise AssertionError("built")

    assert len(checks_of(made(PerUnit, build=build))) > 10


class BatchGates(Gates):
    def score(self, index: int, h_nchw: Tensor) -> Tensor:
        z_n = super().score(index, h_nchw)
        return z_n - z_n.mean()


def test_a_decision_that_depends_on_batch_mates_is_caught() -> None:
    method = with_policy(BatchGates)
    said = said_of(method, "batch_independence")
    assert "shuffled batches of 1" in said
    assert "over the batch" in said
    assert "of 24 images, first at 'block1'" in said


class Halving(GateResidual):
    def skipped(self, block: Block, shortcut: Tensor) -> Tensor:
        return super().skipped(block, shortcut) * 0.5


def test_paths_that_compute_different_things_are_caught_with_the_difference() -> None:
    method = with_net(
        lambda backbone: GatedResNet(backbone, ByContrast(backbone.num_blocks), merge=Halving())
    )
    said = said_of(method, "execution")
    assert "execute and forward differ by up to" in said
    assert "of 41 images" in said
    assert "skipping loop" in said


class OtherwiseWhenSkipping(GatedResNet):
    def execute(self, x_nchw: Tensor) -> Output:
        gates_nb = torch.ones(len(x_nchw), len(self.blocks))
        return self.execute_with(x_nchw, gates_nb)


def test_paths_that_decide_differently_are_caught_with_the_unit() -> None:
    said = said_of(with_net(lambda b: OtherwiseWhenSkipping(b, Gates(b))), "execution")
    assert "run other units" in said
    assert "of 41 images, first at 'block" in said
    assert "decide on different states" in said


class DeafDecisions(GateDecisions):
    def gate(self, index: int, h_nchw: Tensor) -> Tensor | None:
        gate_n = super().gate(index, h_nchw)
        return None if gate_n is None else (gate_n > 0.5).float()

    def terms(self) -> Mapping[str, Tensor]:
        return {}


class DeafGates(Gates):
    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> Decisions:
        return DeafDecisions(self)


def test_a_gate_without_gradient_is_caught_by_name() -> None:
    said = said_of(with_policy(DeafGates), "gradient")
    assert "10 of" in said
    assert "policy.nets.1.weight" in said
    assert "straight-through" in said


class FreeGates(Gates):
    def units(self) -> Sequence[Unit]:
        return ()


def test_a_cost_that_is_not_counted_is_caught_with_the_macs() -> None:
    said = said_of(with_policy(FreeGates), "macs")
    # Five linear layers of 16 to 1, 32 to 1 and 64 to 1 channels.
    assert f"{16 + 16 + 32 + 32 + 64} per image too few" in said
    assert "Policy.units" in said


class RandomGates(Gates):
    def score(self, index: int, h_nchw: Tensor) -> Tensor:
        z_n = super().score(index, h_nchw)
        return z_n + torch.randn_like(z_n)


def test_random_numbers_in_evaluation_are_caught_and_named_as_the_cause_elsewhere() -> None:
    method = with_policy(RandomGates)
    said = said_of(method, "repeatable")
    assert "two calls of forward run other units" in said
    assert "self.training" in said
    assert "see 'repeatable'" in said_of(method, "execution")
    assert "global generators" in said_of(method, "side_effects")


class Drifting(CheapAndRight):
    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        assert isinstance(net, GatedResNet) and isinstance(net.policy, ShiftedGates)
        net.policy.shift += 0.05
        return super().loss(net, batch, progress)


class ShiftedGates(Gates):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.shift = 0.0

    def score(self, index: int, h_nchw: Tensor) -> Tensor:
        return super().score(index, h_nchw) * (1 + self.shift) + self.shift


def one_phase(kind: type[CheapAndRight]) -> Any:
    def phases(self: Method, config: MethodConfig, budget: Budget) -> Sequence[Phase]:
        size, optimizer = budget.batch_size, budget.optimizer
        return [kind("main", epochs=budget.epochs, batch_size=size, optimizer=optimizer)]

    return phases


def test_state_that_does_not_travel_with_the_weights_is_caught() -> None:
    said = said_of(with_policy(ShiftedGates, phases=one_phase(Drifting)), "round_trip")
    assert "before and after saving" in said
    assert "register_buffer" in said


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


def test_an_exempt_check_is_reported_with_its_reason_and_not_run() -> None:
    tags = Tags(decision="per unit", exempt={"macs": "the gates are free of charge"})
    outcome = outcome_of(with_policy(FreeGates, tags=tags), "macs")
    assert (outcome.status, outcome.detail) == ("exempt", "the gates are free of charge")
    outcome.require()


def test_phases_that_do_not_add_up_are_caught_with_their_epochs() -> None:
    def phases(self: Method, config: MethodConfig, budget: Budget) -> Sequence[Phase]:
        half, rest = round(budget.epochs / 2), round(budget.epochs / 2)
        return [
            CheapAndRight(name, epochs=n, batch_size=8, optimizer=budget.optimizer)
            for name, n in (("first", half), ("second", rest))
        ]

    said = said_of(made(PerUnit, phases=phases), "budget")
    assert "recipe 'smoke' and 1 epochs the phases add up to 0: first 0, second 0" in said


class NearlyOneDecisions(GateDecisions):
    def gate(self, index: int, h_nchw: Tensor) -> Tensor | None:
        if self.policy.always_on[index]:
            return None
        soft = torch.sigmoid(self.policy.score(index, h_nchw))
        self.gates.append((soft > 0.5).float() + soft - soft.detach())
        return self.gates[-1]


class NearlyOneGates(Gates):
    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> Decisions:
        return NearlyOneDecisions(self)


def test_a_gate_that_is_one_only_up_to_rounding_is_caught_with_the_way_out() -> None:
    assert "hard + (soft - soft.detach())" in said_of(with_policy(NearlyOneGates), "execution")


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
    assert "Mute cannot be told to run everything" in failed["all_on"].detail
    assert "'permuted'" in failed["permuted"].cause
    assert "shares of a state cannot be skipped" in failed["execution"].detail
    exempt = dict.fromkeys(failed, "by nature")
    tags = Tags(decision="exit", calibrates=True, exempt=exempt)
    assert not any(o.status == "failed" for o in check_method(made(method, tags=tags)))


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


class Soft(GateDecisions):
    def gate(self, index: int, h_nchw: Tensor) -> Tensor | None:
        if self.policy.always_on[index]:
            return None
        self.gates.append(2 * torch.sigmoid(self.policy.score(index, h_nchw)))
        return self.gates[-1]


class SoftGates(Gates):
    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> Decisions:
        return Soft(self)


def test_shares_above_one_are_caught() -> None:
    said = said_of(with_policy(SoftGates), "outputs")
    assert "a share is from 0 to 1" in said
    assert "soft gates" in said


def test_a_fault_in_the_code_of_a_method_is_shown_with_its_line() -> None:
    class Broken(CheapAndRight):
        def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
            raise KeyError("gates_of_nobody")

    method = made(PerUnit, phases=one_phase(Broken))
    assert "KeyError: 'gates_of_nobody' (test_testing.py, line " in said_of(method, "trains")
    assert "'trains' failed" in said_of(method, "execution")
    assert outcome_of(method, "settings").status == "passed"


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
        assert isinstance(config, PerUnitConfig)
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
        assert isinstance(net, ExitNet)
        net.thresholds.copy_(0.3 + 0.1 * torch.rand(2))

    def training(self: Method, net: DynamicNet, config: MethodConfig, held_out: object) -> None:
        assert isinstance(net, ExitNet)
        with torch.no_grad():
            net.exit.weight.add_(1)

    assert "chooses otherwise a second time" in said_of(made(Exit, calibrate=drawn), "calibration")
    assert "changes the weights, at 'exit.weight'" in said_of(
        made(Exit, calibrate=training), "calibration"
    )


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


def test_a_control_that_trains_the_run_it_is_made_from_is_caught() -> None:
    def derive(
        self: Method, source: Source, backbone: Backbone, config: MethodConfig
    ) -> DynamicNet:
        return source.points[0].net

    method = made(StaticHalf, derive=derive, tags=Tags(decision="up front", role="control"))
    said = said_of(method, "derivation")
    assert "of the source has changed" in said
    assert "deepcopy" in said


def test_two_names_for_one_tensor_cannot_be_saved() -> None:
    class Twice(GatedResNet):
        def __init__(self, backbone: Backbone) -> None:
            super().__init__(backbone, Gates(backbone))
            self.again = self.trunk

    assert "cannot be saved" in said_of(with_net(Twice), "round_trip")


def test_an_evaluation_that_leaves_traces_is_caught() -> None:
    class Counting(Gates):
        def __init__(self, backbone: Backbone) -> None:
            super().__init__(backbone)
            self.register_buffer("calls", torch.zeros(()))

        def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> Decisions:
            self.calls.add_(1)
            return super().begin(x_nchw, stem_nchw)

    assert "changes 'policy.calls' in eval mode" in said_of(with_policy(Counting), "side_effects")


def test_a_shipped_network_that_computes_something_else_is_caught() -> None:
    class Lossy(GatedResNet):
        def inference_net(self, *, dead_blocks: frozenset[str] = frozenset()) -> DynamicNet:
            net = super().inference_net(dead_blocks=dead_blocks)
            assert isinstance(net, GatedResNet)
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
        def masked(self, shortcut: Tensor, residual: Tensor, gate_n: Tensor) -> Tensor:
            return super().masked(shortcut, residual, 0.9 * gate_n + 0.01)

    method = with_net(lambda b: GatedResNet(b, Gates(b), merge=Leaking()))
    assert "all off and stem, shortcuts, head differ" in said_of(method, "all_off")
    said = said_of(method, "all_on")
    assert "must be equal bit for bit" in said


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
        assert isinstance(config, PerUnitConfig)
        assert config.strength == 0.5, "another strength was asked for"
        return one_phase(Strong)(self, config, budget)

    method = made(PerUnit, phases=phases)
    check = checks_of(method, config=PerUnitConfig(strength=0.7))[0]
    assert check.name == "metadata"
    outcomes = check_method(method(), config=PerUnitConfig(strength=0.7))
    assert "another strength" in next(o for o in outcomes if o.check == "trains").detail


def test_a_straight_through_gate_is_exactly_zero_or_one() -> None:
    z = torch.linspace(-5, 5, 1001)
    assert set(straight_through(z).tolist()) == {0.0, 1.0}
