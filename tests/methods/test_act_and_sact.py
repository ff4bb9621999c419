"""ACT and SACT against their conformance points: both ends, costs, loss, schedule, direction."""

from __future__ import annotations

import pytest
import torch
from method_nets import batch_of
from small_runs import digits, digits_backbone, judged, trained

from bench.measure.cost import dense_macs, unit_macs
from bench.measure.modes import using_threads
from bench.method import Budget, OptimizerSpec
from bench.networks.halting import HaltingResNet
from bench.networks.trunk import Backbone
from bench.phases import PonderCost
from methods.act import Act, pooled_score
from methods.sact import Sact, position_score

Halting = Act | Sact
RESNET32 = Backbone("resnet32", 10, (3, 32, 32))
BUDGET = Budget(recipe="fair", epochs=4, batch_size=16, optimizer=OptimizerSpec(lr=0.05))


@pytest.fixture(params=[Act, Sact])
def method(request: pytest.FixtureRequest) -> Halting:
    made: Halting = request.param()
    return made


def _net(method: Halting, backbone: Backbone = RESNET32, **settings: object) -> HaltingResNet:
    torch.manual_seed(0)
    net = method.build(backbone, method.Config(**settings))
    return net


def _phase(method: Halting, **settings: object) -> PonderCost:
    (phase,) = method.phases(method.Config(**settings), BUDGET)
    return phase


@torch.no_grad()
def test_at_the_start_nearly_everything_runs_and_the_last_state_has_most_of_the_weight() -> None:
    output = _net(Act()).train()(batch_of(16, 32).x_nchw)
    units_ns = output.terms["units_ns"]
    assert units_ns.mean() > 4.5
    # R = 1 - (h_1 + ... + h_4), which is 0.81 where every h is sigmoid(-3).
    assert 1 - 4 * torch.sigmoid(torch.tensor(-3.0)).item() == pytest.approx(0.81, abs=5e-3)
    assert 0.5 < (output.terms["ponder_ns"] - units_ns).mean() < 0.9


def test_a_score_starts_at_the_halting_bias_which_weight_decay_leaves_alone() -> None:
    score = pooled_score(16)
    assert score[-1].bias.tolist() == [0.0]
    assert _net(Act(), halting_bias=-2.0).policy.bias == -2.0
    assert not any(parameter.eq(-3.0).any() for parameter in _net(Act()).policy.parameters())


def test_deciding_costs_next_to_nothing() -> None:
    net = _net(Act())
    scores = {unit.name: unit_macs(net)[unit.name] for unit in net.policy.units()}
    assert sum(scores.values()) == 4 * (16 + 32 + 64)
    assert sum(scores.values()) / dense_macs(RESNET32) < 1e-5


@torch.no_grad()
def test_positions_have_scores_of_their_own_and_share_what_the_whole_image_says() -> None:
    score = position_score(16).eval()
    state = torch.rand(2, 16, 8, 8)
    z = score(state)
    assert z.shape == (2, 1, 8, 8) and z.std() > 0
    torch.testing.assert_close(
        z, score.local(state) + score.whole(state).view(2, 1, 1, 1), atol=1e-6, rtol=1e-5
    )
    changed = state.clone()
    changed[0, :, 0, 0] += 4
    difference = (score(changed) - z)[:, 0]
    assert difference[1].abs().max() == 0  # another image
    far = difference[0, 3:, 3:]
    assert far.abs().min() > 0 and far.std() < 1e-6  # the whole image's number alone
    assert difference[0, :2, :2].std() > 1e-3


def test_only_the_map_has_a_bias_and_it_starts_at_zero_behind_the_halting_bias() -> None:
    names = {name: p for name, p in position_score(16).named_parameters() if p.ndim != 4}
    assert names["local.conv.bias"].tolist() == [0.0]
    assert sum("bias" in name and p.numel() == 1 for name, p in names.items()) == 1
    assert _net(Sact(), halting_bias=-2.0).policy.bias == -2.0


@pytest.mark.parametrize(("name", "share"), [("resnet32", 0.015), ("resnet110", 0.017)])
def test_deciding_everywhere_costs_one_and_a_half_percent(name: str, share: float) -> None:
    backbone = Backbone(name, 10, (3, 32, 32))
    net = _net(Sact(), backbone)
    macs = unit_macs(net)
    overhead = sum(macs[unit.name] for unit in net.policy.units())
    assert overhead / dense_macs(backbone) == pytest.approx(share, abs=5e-4)


@torch.no_grad()
def test_a_score_in_part_costs_its_share_of_the_positions() -> None:
    net = _net(Sact(), Backbone("resnet20", 10, (3, 16, 16)), halting_bias=3.0).eval()
    output = net(batch_of(8).x_nchw)
    column = {unit.name: c for c, unit in enumerate(net.units())}
    block, score = (output.executed[:, column[n]] for n in ("block1", "score1"))
    assert ((score > 0) & (score < 1)).any()
    assert (block >= score).all()  # the first convolution also runs around active positions
    assert torch.equal(output.executed[:, column["score1.global"]], (score > 0).float())


def test_the_loss_is_cross_entropy_plus_tau_times_the_ponder_cost_of_all_stages(
    method: Halting,
) -> None:
    net, batch = _net(method), batch_of(8, 32)
    phase = _phase(method, tau=0.3)
    phase.set_modes(net)
    terms = phase.loss(net, batch, 0.0)
    parts = terms.parts
    assert terms.total.item() == pytest.approx((parts["loss"] + 0.3 * parts["ponder"]).item())
    assert terms.logits is not None
    entropy = torch.nn.functional.cross_entropy(terms.logits, batch.labels_n)
    assert parts["loss"].item() == pytest.approx(entropy.item())
    units = [parts[f"units_stage{number}"].item() for number in (1, 2, 3)]
    # N + R with 0 < R <= 1: the ponder cost bounds what ran from above.
    assert sum(units) < parts["ponder"].item() <= sum(units) + 3


def test_without_cross_entropy_the_ponder_cost_alone_raises_the_scores(method: Halting) -> None:
    net = _net(method, Backbone("resnet20", 10, (3, 16, 16)))
    optimizer = torch.optim.SGD(net.policy.parameters(), lr=5.0)
    x, costs = batch_of(16).x_nchw, []
    for _ in range(25):
        cost = net(x).terms["ponder_ns"].mean()
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
    assert costs[-1] < costs[0] - 0.2


def test_scores_may_learn_at_a_rate_of_their_own_but_not_by_the_published_recipe(
    method: Halting,
) -> None:
    net = _net(method)
    trunk, side = _phase(method, side_lr_scale=7.0).groups(net)
    assert (trunk.lr_scale, side.lr_scale) == (1.0, 7.0)
    assert set(side.parameters) == set(net.policy.parameters())
    assert {*trunk.parameters, *side.parameters} == set(net.parameters())
    (phase,) = method.phases(
        method.Config(side_lr_scale=7.0), BUDGET.model_copy(update={"published": True})
    )
    assert [group.lr_scale for group in phase.groups(net)] == [1.0, 1.0]


def test_the_defaults_are_those_of_the_authors_code(method: Halting) -> None:
    config = method.Config()
    assert (config.tau, config.eps, config.halting_bias) == (0.01, 0.01, -3.0)
    assert method.tags.reconstructed == ("side_lr_scale",)
    assert method.tags.decision == "halting"
    assert method.variant(method.Config(tau=0.005)) == "tau=0.005"


def test_a_higher_price_of_thinking_makes_a_cheaper_network(method: Halting) -> None:
    few, backbone = digits().train.take(torch.arange(400)), digits_backbone("resnet14")
    budget, costs = BUDGET.model_copy(update={"epochs": 6}), []
    with using_threads(1):
        for tau in (0.0, 0.05, 0.5):
            net = trained(method, method.Config(tau=tau), backbone, budget, few)
            cost, accuracy = judged(net, backbone)
            assert accuracy > 0.85
            costs.append(cost)
    assert costs[0] > costs[1] + 0.02 > costs[2] + 0.04
