"""What holds for all methods with exits: a frozen trunk, both ends, calibration, the direction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from exit_training import dense_weights, held_out, judged, trained
from method_nets import BACKBONE, BUDGET, batch_of

from bench.errors import ConfigError
from bench.method import Method
from bench.networks.exits import ExitResNet
from bench.plugins import method_config
from methods.branchynet import BranchyNet
from methods.cdl import Cdl
from methods.learned_exit import LearnedExit
from methods.pbee import Pbee
from methods.sdn import Sdn
from methods.ztw import Ztw


def built(method: Method, **settings: Any) -> ExitResNet:
    torch.manual_seed(0)
    net = method.build(BACKBONE, method.Config.model_validate(settings))
    return net


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (Cdl(), {}),
        (LearnedExit(), {"head": "convolution"}),
        (Sdn(), {"training": "ic-only"}),
        (Ztw(), {}),
    ],
)
def test_the_trunk_is_frozen_with_its_statistics_and_only_the_exits_learn(
    method: Method, settings: dict[str, object]
) -> None:
    net = built(method, **settings)
    phase = method.phases(method.Config.model_validate(settings), BUDGET)[0]
    before = {name: value.clone() for name, value in net.trunk.state_dict().items()}
    phase.set_modes(net)
    phase.loss(net, batch_of(), 0.5).total.backward()
    assert not any(module.training for module in net.trunk.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.trunk.state_dict().items())
    assert all(parameter.grad is None for parameter in net.trunk.parameters())
    assert all(p.grad is not None and p.grad.any() for p in net.exits.parameters())
    (group,) = phase.groups(net)
    assert set(group.parameters) == set(net.exits.parameters())


@pytest.mark.parametrize(
    ("method", "settings", "first", "never"),
    [
        (BranchyNet(), {}, float("inf"), 0.0),
        (Cdl(), {}, 0.0, 1.01),
        (Sdn(), {"fallback": "last"}, 0.0, 1.01),
    ],
)
@torch.no_grad()
def test_at_one_end_all_leave_at_exit_1_and_at_the_other_nobody_leaves(
    method: Method, settings: dict[str, object], first: float, never: float
) -> None:
    net, x = built(method, **settings).eval(), batch_of().x_nchw
    for threshold, way_out in ((first, 0), (never, net.rule.num_exits)):
        net.get_buffer("rule.thresholds_pe").fill_(threshold)
        output = net(x)
        assert bool((output.terms["exit_n"] == way_out).all())
        assert torch.equal(output.logits, net.exit_logits(x)[way_out])
        assert torch.equal(net.execute(x).executed, output.executed)
    assert torch.equal(net(x).logits, net.trunk(x)) and bool(net(x).executed.all())


every_fitted = pytest.mark.parametrize("method", [BranchyNet(), Cdl(), Sdn(), LearnedExit()])


@every_fitted
def test_calibration_chooses_what_the_rule_compares_with_and_nothing_else(method: Method) -> None:
    net, config = built(method).eval(), method.Config()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    method.calibrate(net, config, [batch_of(60)])
    changed = {key for key, v in net.state_dict().items() if not torch.equal(v, before[key])}
    assert changed == {key for key in before if key.startswith("rule.")}


@every_fitted
@torch.no_grad()
def test_before_calibration_every_point_runs_everything(method: Method) -> None:
    net = built(method).eval()
    for point in method.operating_points(net, method.Config()):
        assert bool((point.net.execute(batch_of().x_nchw).executed == 1).all())


@pytest.mark.parametrize("method", [BranchyNet(), Cdl(), Sdn()])
def test_thresholds_are_chosen_without_labels(method: Method) -> None:
    net, other, held = built(method).eval(), built(method).eval(), batch_of(40)
    method.calibrate(net, method.Config(), [held])
    method.calibrate(other, method.Config(), [replace(held, labels_n=held.labels_n.flip(0))])
    assert torch.equal(*(n.get_buffer("rule.thresholds_pe") for n in (net, other)))


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        (BranchyNet, {"weights": [1.0, 1.0]}, "weights"),
        (BranchyNet, {"weights": [1.0, 1.0, -1.0]}, "weights"),
        (BranchyNet, {"budgets": []}, "each larger than the one before"),
        (BranchyNet, {"budgets": [1.0, 0.5]}, "each larger than the one before"),
        (BranchyNet, {"budgets": [0.0, 0.5]}, "greater than 0"),
        (BranchyNet, {"budgets": [1.0, float("inf")]}, "finite"),
        (LearnedExit, {"lambdas": [0.3, 0.1]}, "each larger than the one before"),
        (LearnedExit, {"lambdas": [0.0]}, "greater than 0"),
        (LearnedExit, {"ridge": 0.0}, "greater than 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    method: type[Method], given: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        method_config(method, given)


# By how much the mean cost may miss a budget that is a cost, and the accuracy that some point has.
@pytest.mark.parametrize(
    ("method", "knob", "values", "training", "apart", "accuracy"),
    [
        (BranchyNet(), "p", (0.25, 1.0, 4.0), {"epochs": 4, "lr": 0.05, "dense": True}, None, 0.9),
        (Cdl(), "p", (0.25, 1.0, 4.0), {"epochs": 4, "lr": 0.05, "dense": True}, None, 0.9),
        (Sdn(), "budget", (0.5, 0.7, 0.9), {"epochs": 4, "lr": 0.1}, 0.08, 0.85),
        (Ztw(), "budget", (0.6, 0.8, 1.0), {"epochs": 5, "lr": 0.1, "dense": True}, 0.08, 0.85),
        (Pbee(), "patience", (1, 2, 4), {"epochs": 3, "lr": 0.1, "base": "resnet14"}, None, 0.8),
    ],
)
def test_a_smaller_budget_spends_fewer_macs_on_images_not_seen_before(
    method: Method,
    knob: str,
    values: tuple[float, ...],
    training: dict[str, Any],
    apart: float | None,
    accuracy: float,
) -> None:
    config = method.Config.model_validate({"patience" if knob == "patience" else "budgets": values})
    given = {"dense": False, **training}
    weights = dense_weights() if given.pop("dense") else None
    net = trained(method, config, weights=weights, **given)
    if method.tags.calibrates:
        method.calibrate(net, config, held_out())
    outcomes = {point.name: judged(point.net) for point in method.operating_points(net, config)}
    costs, accuracies = zip(*(outcomes[f"{knob}={value:g}"] for value in values), strict=True)
    assert list(costs) == sorted(costs) and costs[0] < costs[-1]
    assert max(accuracies) > accuracy, "it did learn the digits"
    if apart is not None:
        assert costs == pytest.approx(values, abs=apart)
    if knob == "p":
        assert costs[0] < 0.55 and costs[-1] > 0.85, "as planned: 0.44 and 0.91"
