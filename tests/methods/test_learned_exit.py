"""Learned exits against their conformance points: losses, labels, lambda, frozen trunk."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from exit_training import dense_weights, held_out, judged, trained
from method_nets import batch_of, built

from bench.data.augment import Batch
from bench.measure.cost import unit_macs
from bench.networks.exits import ExitResNet
from bench.plugins import method_config
from methods.learned_exit import LearnedExit, LearnedExitConfig, losses_by_exit

build = partial(built, LearnedExit())


def rules_of(net: ExitResNet) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items() if k.startswith("rule")}


def test_an_excess_loss_is_wrong_only_where_the_whole_network_is_right() -> None:
    # Three ways out, four images of class 0: answers by hand.
    answers_wm = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    logits_wmk = torch.nn.functional.one_hot(answers_wm, 2).float()
    labels_m = torch.zeros(4, dtype=torch.int64)
    excess = losses_by_exit(logits_wmk, labels_m, kind="excess")
    assert excess.tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    error = losses_by_exit(logits_wmk, labels_m, kind="error")
    assert error.tolist() == [[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_calibration_on_the_same_images_gives_the_same_rules_and_on_others_others() -> None:
    net, twin, config = build().eval(), build().eval(), LearnedExitConfig()
    LearnedExit().calibrate(net, config, [batch_of(60)])
    LearnedExit().calibrate(twin, config, [batch_of(60)])
    assert all(torch.equal(v, rules_of(twin)[k]) for k, v in rules_of(net).items())
    LearnedExit().calibrate(twin, config, [batch_of(60, seed=2)])
    assert not all(torch.equal(v, rules_of(twin)[k]) for k, v in rules_of(net).items())


def test_the_rules_follow_the_labels_of_the_held_out_images() -> None:
    net, other, config = build().eval(), build().eval(), LearnedExitConfig()
    held = batch_of(60)
    with torch.no_grad():
        answers_wm = net.exit_logits(held.x_nchw).argmax(dim=2)
    # By these labels exit 1 is always right, by those only the whole network is.
    LearnedExit().calibrate(net, config, [replace(held, labels_n=answers_wm[0])])
    elsewhere = (answers_wm[0] == answers_wm[2]) | (answers_wm[1] == answers_wm[2])
    keep = ~elsewhere
    assert int(keep.sum()) > 10, "some images are answered otherwise at the end"
    few = Batch(held.x_nchw[keep], answers_wm[2][keep], held.index_n[keep])
    LearnedExit().calibrate(other, config, [few])
    with torch.no_grad():
        for point in range(len(config.lambdas) - 1):
            assert bool((net.at(point)(few.x_nchw).terms["exit_n"] == 0).all())
            assert bool((other.at(point)(few.x_nchw).terms["exit_n"] == 2).all())


def test_a_rule_costs_its_three_multiplications() -> None:
    macs = unit_macs(build())
    assert (macs["exit1.rule"], macs["exit2.rule"]) == (3, 3)


def test_each_price_is_an_operating_point_the_middle_one_first() -> None:
    net = build()
    points = LearnedExit().operating_points(net, LearnedExitConfig())
    assert [point.name for point in points] == [
        f"lambda={value}" for value in ("0.2", "0.05", "0.1", "0.4", "0.8")
    ]


@pytest.mark.parametrize("loss", ["excess", "error"])
def test_a_larger_lambda_spends_fewer_macs_on_images_not_seen_before(loss: str) -> None:
    config = method_config(LearnedExit, {"lambdas": [0.01, 0.1, 1.0], "loss": loss})
    # Short training at a small rate: the exits are to be worse than the whole network.
    net = trained(LearnedExit(), config, epochs=2, lr=0.005, weights=dense_weights())
    LearnedExit().calibrate(net, config, held_out())
    outcomes = {p.name: judged(p.net) for p in LearnedExit().operating_points(net, config)}
    costs = [outcomes[name][0] for name in ("lambda=0.01", "lambda=0.1", "lambda=1")]
    assert costs[0] > costs[1] > costs[2]
    assert outcomes["lambda=0.01"][1] >= outcomes["lambda=1"][1]
    assert outcomes["lambda=0.01"][1] > 0.9
