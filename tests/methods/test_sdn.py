"""Shallow-Deep Networks against their conformance points: places, weights, q and the fallback."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from exit_training import dense_weights, trained
from method_nets import batch_of, built

from bench.measure.cost import dense_macs, macs_per_image, unit_macs
from bench.method import Budget, OptimizerSpec, Phase
from bench.networks.exit_places import SIX_SHARES, nearest_to_shares
from bench.networks.exits import ExitResNet
from bench.networks.trunk import Backbone
from methods.sdn import Sdn, SdnConfig

BACKBONE = Backbone("resnet20", 10, (3, 16, 16))
BUDGET = Budget(recipe="test", epochs=4, batch_size=16, optimizer=OptimizerSpec(lr=0.05))
EXITS = 6


def build(**settings: object) -> ExitResNet:
    net: ExitResNet = built(Sdn(), BACKBONE, **settings).eval()
    return net


def phase_of(**settings: object) -> Phase:
    (phase,) = Sdn().phases(SdnConfig.model_validate(settings), BUDGET)
    return phase


def set_q(net: ExitResNet, q: float) -> ExitResNet:
    net.get_buffer("rule.thresholds_pe").fill_(q)
    return net


def test_on_a_resnet56_exits_lie_where_the_authors_have_them() -> None:
    places = nearest_to_shares(Backbone("resnet56", 10, (3, 32, 32)), SIX_SHARES)
    assert places == dict(zip((4, 8, 12, 16, 20, 24), SIX_SHARES, strict=True))


def test_on_a_short_network_an_exit_has_the_nearest_of_its_shares() -> None:
    places = nearest_to_shares(Backbone("resnet8", 10, (3, 32, 32)), SIX_SHARES)
    assert places == {1: 0.45, 2: 0.75}


def test_what_the_heads_cost_on_cifar() -> None:
    backbone = Backbone("resnet56", 10, (3, 32, 32))
    costs = unit_macs(Sdn().build(backbone, SdnConfig()))
    heads = [costs[f"exit{e + 1}"] for e in range(EXITS)]
    assert heads == [2560, 2560, 5120, 5120, 10240, 10240]
    assert sum(heads) / dense_macs(backbone) == pytest.approx(0.0003, abs=1e-4)


def test_a_head_mixes_the_largest_and_the_mean_of_4x4_fields() -> None:
    head, h = build().exits[0], torch.rand(2, 16, 16, 16)
    share = head.get_parameter("pooling.share")
    assert 0 < share < 1
    share.data.fill_(1.7)
    fields = h.view(2, 16, 4, 4, 4, 4).transpose(3, 4).flatten(4)
    by_hand = (1.7 * fields.amax(dim=-1) - 0.7 * fields.mean(dim=-1)).flatten(1)
    linear = head.get_submodule("linear")
    torch.testing.assert_close(head(h), linear(by_hand))


@torch.no_grad()
def test_where_no_exit_is_sure_the_most_confident_answers_at_full_cost() -> None:
    net, x = set_q(build(), 1.001), batch_of(40).x_nchw
    logits_wnk = net.exit_logits(x)
    exit_n = logits_wnk.double().softmax(dim=2).amax(dim=2).argmax(dim=0)
    assert len(set(exit_n.tolist())) > 1
    for output in (net(x), net.execute(x)):
        torch.testing.assert_close(output.logits, logits_wnk[exit_n, torch.arange(40)])
        assert bool(output.executed.all())


@torch.no_grad()
def test_a_larger_q_never_costs_less_and_each_step_is_a_segment_and_a_head() -> None:
    net, x = build(), batch_of(30).x_nchw
    costs = list(unit_macs(net).values())
    means = [
        macs_per_image(set_q(net, q)(x).executed, costs).mean().item()
        for q in (0.0, 0.1, 0.15, 0.2, 0.3, 0.5, 1.1)
    ]
    assert means == sorted(means) and len(set(means)) > 3
    by_way = macs_per_image(net._trace(torch.arange(EXITS + 1)), costs).tolist()
    macs, starts = unit_macs(net), (*net.starts, BACKBONE.num_blocks)
    for e in range(1, EXITS):
        segment = sum(macs[f"block{b}"] for b in range(starts[e], starts[e + 1]))
        assert by_way[e] - by_way[e - 1] == segment + macs[f"exit{e + 1}"]


def test_the_weights_of_exits_grow_from_epoch_to_epoch_up_to_their_share() -> None:
    net, phase = build(), phase_of()
    for step in range(40):
        epoch = step // 10 + 1
        expected = [min(c, 0.01 + c * epoch / 4) for c in SIX_SHARES]
        assert phase.weights(net, step / 40) == pytest.approx([*expected, 1.0])
    assert phase.weights(net, 39 / 40)[:-1] == pytest.approx(SIX_SHARES)


def test_joint_training_is_the_weighted_sum_of_all_ways_out() -> None:
    net, batch = build().train(), batch_of()
    terms = phase_of().loss(net, batch, 0.0)
    losses = [F.cross_entropy(z, batch.labels_n).item() for z in net.exit_logits(batch.x_nchw)]
    weights = [*(0.01 + c / 4 for c in SIX_SHARES), 1.0]
    expected = sum(w * loss for w, loss in zip(weights, losses, strict=True))
    assert terms.total.item() == pytest.approx(expected, rel=1e-5)
    terms.total.backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_ic_only_starts_from_a_dense_network_and_leaves_all_of_its_trunk_alone() -> None:
    config, weights = SdnConfig(training="ic-only"), dense_weights()
    assert Sdn().starts_from_dense(config) and not Sdn().starts_from_dense(SdnConfig())
    net = trained(Sdn(), config, epochs=1, lr=0.05, weights=weights)
    trunk = net.get_submodule("trunk").state_dict()
    assert any("running_var" in key for key in trunk)
    assert all(torch.equal(value, weights[key]) for key, value in trunk.items())
