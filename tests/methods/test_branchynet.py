"""BranchyNet against its conformance points: joint loss, entropy rule, thresholds, budgets."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from exit_training import digits, held_out
from method_nets import BACKBONE, BUDGET, batch_of, built

from bench.networks.trunk import Backbone
from bench.training.optimizer import build_optimizer
from methods.branchynet import BranchyNet, BranchyNetConfig, JointTraining, TrunkAlone

build = partial(built, BranchyNet())


def joint(config: BranchyNetConfig) -> JointTraining:
    (phase,) = BranchyNet().phases(config, BUDGET)
    return phase


def test_the_loss_is_the_weighted_sum_over_all_ways_out() -> None:
    config, net, batch = BranchyNetConfig(weights=(1.0, 0.3, 0.5)), build().eval(), batch_of()
    terms = joint(config).loss(net, batch, 0.0)
    by_hand = [F.cross_entropy(z, batch.labels_n).item() for z in net.exit_logits(batch.x_nchw)]
    parts = [terms.parts[name].item() for name in ("loss_exit1", "loss_exit2", "loss_last")]
    assert parts == pytest.approx(by_hand)
    expected = by_hand[0] + 0.3 * by_hand[1] + 0.5 * by_hand[2]
    assert terms.total.item() == pytest.approx(expected)


def test_all_exits_weigh_the_same_unless_told_otherwise() -> None:
    terms = joint(BranchyNetConfig()).loss(build(), batch_of(), 0.0)
    assert terms.total.item() == pytest.approx(sum(part.item() for part in terms.parts.values()))


def test_trunk_and_exits_learn_together() -> None:
    net, phase = build(), joint(BranchyNetConfig())
    phase.set_modes(net)
    assert all(module.training for module in net.modules())
    phase.loss(net, batch_of(), 0.5).total.backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
    assert {p for group in phase.groups(net) for p in group.parameters} == set(net.parameters())


def test_a_weight_of_zero_leaves_its_exit_untaught() -> None:
    net = build()
    joint(BranchyNetConfig(weights=(0.0, 1.0, 1.0))).loss(net, batch_of(), 0.5).total.backward()
    assert not any(p.grad.any() for p in net.exits[0].parameters() if p.grad is not None)
    assert all(p.grad is not None and p.grad.any() for p in net.exits[1].parameters())


@torch.no_grad()
def test_each_operating_point_has_the_exit_distribution_of_its_p() -> None:
    config, net, held = BranchyNetConfig(budgets=(0.5, 2.0, 4.0)), None, [batch_of(42)]
    net = build(budgets=config.budgets).eval()
    BranchyNet().calibrate(net, config, held)
    points = BranchyNet().operating_points(net, config)
    assert [point.name for point in points] == ["p=2", "p=0.5", "p=4"]
    shares = {"p=0.5": (4, 2, 1), "p=2": (1, 2, 4), "p=4": (1, 4, 16)}
    for point in points:
        parts, exit_n = shares[point.name], point.net(held[0].x_nchw).terms["exit_n"]
        assert exit_n.bincount(minlength=3).tolist() == [42 * part // sum(parts) for part in parts]


def test_the_trunk_takes_the_weights_of_a_trained_dense_network() -> None:
    weights = BACKBONE.build().state_dict()
    base = Backbone("resnet14", 10, (3, 16, 16), weights=weights)
    assert all(torch.equal(v, weights[k]) for k, v in build(base).trunk.state_dict().items())


def test_the_published_schedule_is_100_epochs_of_the_trunk_and_100_of_all_by_adam() -> None:
    method, config = BranchyNet(), BranchyNetConfig()
    assert method.published_epochs(config) == 200
    budget = BUDGET.model_copy(update={"epochs": 200, "published": True})
    phases = method.phases(config, budget)
    assert [type(phase) for phase in phases] == [TrunkAlone, JointTraining]
    for phase in phases:
        assert (phase.epochs, phase.batch_size) == (100, 64)
        optimizer = build_optimizer(phase.groups(build()), phase.optimizer)
        assert isinstance(optimizer, torch.optim.Adam)
        assert optimizer.defaults["lr"] == 1e-3
        assert optimizer.defaults["betas"] == (0.99, 0.999)


def test_the_trunk_alone_learns_nothing_from_exits() -> None:
    net, batch = build(), batch_of()
    budget = BUDGET.model_copy(update={"epochs": 200, "published": True})
    first, _ = BranchyNet().phases(BranchyNetConfig(), budget)
    terms = first.loss(net, batch, 0.0)
    plain = torch.nn.functional.cross_entropy(net.trunk(batch.x_nchw), batch.labels_n)
    assert terms.total.item() == pytest.approx(plain.item(), rel=1e-5)
    terms.total.backward()
    assert all(p.grad is None for p in net.exits.parameters())
    (group,) = first.groups(net)
    assert set(group.parameters) == set(net.trunk.parameters())


def test_the_digits_to_calibrate_with_are_neither_trained_on_nor_judged_by() -> None:
    chosen, kept, test = digits()
    pixels = [{image.numpy().tobytes() for image in part.images_nhwc} for part in (chosen, kept)]
    assert len(chosen) == 600 and len(kept) == 200 and len(test) == 300
    assert not pixels[0] & pixels[1]
    assert sum(len(batch) for batch in held_out()) == 200
