"""CDL against its conformance points: a frozen trunk, linear exits, the probability threshold."""

from __future__ import annotations

import io
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from method_nets import BACKBONE, BUDGET, batch_of, built
from torch import nn

from bench.measure.cost import counted_macs, unit_macs
from bench.method import Phase
from methods.cdl import Cdl, CdlConfig

build = partial(built, Cdl())


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


def test_training_runs_nothing_behind_the_last_exit() -> None:
    net, phase = build(), classifiers()
    phase.set_modes(net)
    macs = unit_macs(net)
    before = sum(macs[name] for name in ("stem", *(f"block{b}" for b in range(4))))
    spent = counted_macs(lambda: phase.loss(net, batch_of(1), 0.5))
    assert spent == before + macs["exit1"] + macs["exit2"]


@pytest.mark.parametrize("head", ["grid", "pooled"])
def test_an_exit_is_a_single_linear_layer(head: str) -> None:
    net = build(head=head)
    for head_module in net.exits:
        weighted = [m for m in head_module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        assert [type(module) for module in weighted] == [nn.Linear]
        assert sum(1 for _ in head_module.parameters()) == 2


@torch.no_grad()
def test_an_image_leaves_where_its_largest_probability_reaches_the_threshold() -> None:
    net, x = build().eval(), batch_of(40).x_nchw
    first, second, _ = net.exit_logits(x).double().softmax(dim=2).amax(dim=2)
    net.rule.thresholds_pe[net.point] = torch.stack([first.median(), second.median()])
    at_first = first >= first.median()
    at_second = ~at_first & (second >= second.median())
    expected = torch.where(at_first, 0, torch.where(at_second, 1, 2))
    assert torch.equal(net(x).terms["exit_n"], expected)
    assert set(expected.tolist()) == {0, 1, 2}


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
