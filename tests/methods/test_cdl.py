"""CDL against its conformance points: a frozen trunk, linear exits, the probability threshold."""

from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as F
from exit_training import dense_weights, held_out, judged, trained
from torch import nn

from bench.data.augment import Batch
from bench.measure.cost import counted_macs, unit_macs
from bench.method import Budget, OptimizerSpec, Phase
from bench.networks.exit_rules import ProbabilityReaches
from bench.networks.exits import ExitResNet
from bench.networks.trunk import Backbone
from methods.cdl import Cdl, CdlConfig

BACKBONE = Backbone("resnet14", 10, (3, 16, 16))
BUDGET = Budget(recipe="test", epochs=3, batch_size=16, optimizer=OptimizerSpec(lr=0.05))


def build(config: CdlConfig | None = None) -> ExitResNet:
    torch.manual_seed(0)
    net = Cdl().build(BACKBONE, config or CdlConfig())
    assert isinstance(net, ExitResNet)
    return net


def batch_of(count: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, 16, 16, generator=generator)
    return Batch(x, torch.arange(count) % 10, torch.arange(count))


def classifiers() -> Phase:
    (phase,) = Cdl().phases(CdlConfig(), BUDGET)
    return phase


def test_the_loss_is_the_sum_of_the_exits_cross_entropies() -> None:
    net, batch = build(), batch_of()
    phase = classifiers()
    phase.set_modes(net)
    terms = phase.loss(net, batch, 0.0)
    by_hand = [F.cross_entropy(z, batch.labels_n).item() for z in net.exit_logits(batch.x_nchw)[:2]]
    assert [part.item() for part in terms.parts.values()] == pytest.approx(by_hand)
    assert terms.total.item() == pytest.approx(sum(by_hand))


def test_the_trunk_is_frozen_with_its_statistics_and_only_the_exits_learn() -> None:
    net, phase = build(), classifiers()
    before = {name: value.clone() for name, value in net.trunk.state_dict().items()}
    phase.set_modes(net)
    phase.loss(net, batch_of(), 0.5).total.backward()
    assert not any(module.training for module in net.trunk.modules())
    assert all(torch.equal(v, before[k]) for k, v in net.trunk.state_dict().items())
    assert all(parameter.grad is None for parameter in net.trunk.parameters())
    assert all(p.grad is not None and p.grad.any() for p in net.exits.parameters())
    (group,) = phase.groups(net)
    assert set(group.parameters) == set(net.exits.parameters())


def test_training_runs_nothing_behind_the_last_exit() -> None:
    net, phase = build(), classifiers()
    phase.set_modes(net)
    macs = unit_macs(net)
    before = sum(macs[name] for name in ("stem", *(f"block{b}" for b in range(4))))
    spent = counted_macs(lambda: phase.loss(net, batch_of(1), 0.5))
    assert spent == before + macs["exit1"] + macs["exit2"]


@pytest.mark.parametrize("head", ["grid", "pooled"])
def test_an_exit_is_a_single_linear_layer(head: str) -> None:
    net = build(CdlConfig(head=head))
    for head_module in net.exits:
        weighted = [m for m in head_module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        assert [type(module) for module in weighted] == [nn.Linear]
        assert sum(1 for _ in head_module.parameters()) == 2


@torch.no_grad()
def test_an_image_leaves_where_its_largest_probability_reaches_the_threshold() -> None:
    net, x = build().eval(), batch_of(40).x_nchw
    assert isinstance(net.rule, ProbabilityReaches)
    first, second, _ = net.exit_logits(x).double().softmax(dim=2).amax(dim=2)
    net.rule.thresholds_pe[net.point] = torch.stack([first.median(), second.median()])
    at_first = first >= first.median()
    at_second = ~at_first & (second >= second.median())
    expected = torch.where(at_first, 0, torch.where(at_second, 1, 2))
    assert torch.equal(net(x).terms["way_n"], expected)
    assert set(expected.tolist()) == {0, 1, 2}


@torch.no_grad()
def test_threshold_zero_stops_all_at_exit_1_and_above_one_nobody_leaves() -> None:
    net, x = build().eval(), batch_of().x_nchw
    for threshold, way_out in ((0.0, 0), (1.01, 2)):
        net.get_buffer("rule.thresholds_pe").fill_(threshold)
        assert bool((net(x).terms["way_n"] == way_out).all())
        assert torch.equal(net.execute(x).executed, net(x).executed)


@torch.no_grad()
def test_thresholds_travel_in_the_state_dict() -> None:
    config, net, file = CdlConfig(), build().eval(), io.BytesIO()
    Cdl().calibrate(net, config, [batch_of(50)])
    torch.save(net.state_dict(), file)
    file.seek(0)
    twin = Cdl().build(BACKBONE, config).eval()
    twin.load_state_dict(torch.load(file, weights_only=True))
    x = batch_of(50).x_nchw
    ours, theirs = (Cdl().operating_points(n, config) for n in (net, twin))
    assert [point.name for point in ours] == ["p=1", "p=0.25", "p=0.5", "p=2", "p=4"]
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.net(x).executed, other.net(x).executed)
        assert torch.equal(one.net(x).logits, other.net(x).logits)
    traces = {tuple(point.net(x).executed.sum(dim=0).tolist()) for point in ours}
    assert len(traces) == 5, "five points that differ"


@torch.no_grad()
def test_calibration_changes_the_thresholds_and_nothing_else() -> None:
    net = build().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    Cdl().calibrate(net, CdlConfig(), [batch_of(30)])
    changed = {key for key, v in net.state_dict().items() if not torch.equal(v, before[key])}
    assert changed == {"rule.thresholds_pe"}


def test_a_smaller_p_spends_fewer_macs_on_images_not_seen_before() -> None:
    config, weights = CdlConfig(budgets=(0.25, 1.0, 4.0)), dense_weights()
    net = trained(Cdl(), config, epochs=4, lr=0.05, weights=weights)
    trunk = net.get_submodule("trunk").state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in trunk.items())
    Cdl().calibrate(net, config, held_out())
    outcomes = {p.name: judged(p.net) for p in Cdl().operating_points(net, config)}
    costs = [outcomes[name][0] for name in ("p=0.25", "p=1", "p=4")]
    assert costs == sorted(costs)
    assert costs[0] < 0.55 and costs[2] > 0.85, "as planned: 0.44 and 0.91"
    assert min(accuracy for _, accuracy in outcomes.values()) > 0.9
