"""A-ViT against its conformance points: score, weights, cost, losses, schedule, direction."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from halting_nets import SHAPE, images
from small_runs import digits, digits_backbone, judged, trained
from token_nets import BACKBONE, LAYERS, TOKENS, WIDTH, learned, live_counts

from bench.data.augment import Batch
from bench.measure.cost import dense_macs, macs_per_image, unit_macs
from bench.measure.modes import using_threads
from bench.method import Backbone, Budget, NotApplicable, OptimizerSpec
from bench.networks.halting import HaltingResNet
from bench.networks.tokens import TokenHalting
from bench.plugins import load_plugin
from bench.testing import Check, checks_of
from methods.a_vit import AVit, AVitConfig, FirstChannel, Halting, prior_loss, target_of

BUDGET = Budget(recipe="fair", epochs=4, batch_size=16, optimizer=OptimizerSpec(lr=0.05))
SMALL_VIT = Path(__file__).parents[2] / "docs" / "examples" / "small_vit.py"


def _net(**settings: object) -> HaltingResNet:
    torch.manual_seed(0)
    net = AVit().build(BACKBONE, AVitConfig.model_validate(settings))
    return net


def _phase(**settings: object) -> Halting:
    (phase,) = AVit().phases(AVitConfig.model_validate(settings), BUDGET)
    return phase


def _batch(count: int = 8) -> Batch:
    return Batch(images(count), torch.arange(count) % 10, torch.arange(count))


@torch.no_grad()
def test_the_score_is_a_sigmoid_of_the_first_channel_and_has_no_weights() -> None:
    net, state = _net(gate_scale=10, gate_center=30), torch.zeros(1, 3, WIDTH)
    state[0, :, 0] = torch.tensor([3.0, 3.2, -1.0])
    state[0, :, 1:] = 50
    expected = [0.5, 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(40))]
    assert net.policy.score(1, state).flatten().tolist() == pytest.approx(expected, rel=1e-4)
    assert not list(net.policy.parameters())
    assert not [unit for unit in net.units() if unit.role == "policy"]


@torch.no_grad()
def test_with_the_center_at_either_end_it_is_the_dense_network_or_one_layer() -> None:
    x = images(3)
    dense, cheap = _net(gate_center=1e4).eval(), _net(gate_center=-1e4).eval()
    assert torch.equal(dense.execute(x).logits, dense.trunk(x))
    torch.testing.assert_close(dense(x).logits, dense.trunk(x), atol=1e-5, rtol=1e-5)
    assert live_counts(dense, x).unique().tolist() == [TOKENS]
    first = cheap.blocks[1](cheap.blocks[0](cheap.trunk.stem(x)))
    torch.testing.assert_close(cheap(x).logits, cheap.trunk.head(first), atol=1e-5, rtol=1e-5)
    costs = unit_macs(cheap)
    least = costs["stem"] + costs["head"] + 12 * TOKENS * WIDTH**2 + 2 * TOKENS**2 * WIDTH
    for output in (cheap(x), cheap.execute(x)):
        assert macs_per_image(output.executed, list(costs.values())).tolist() == [least] * 3


def test_the_target_is_a_gaussian_at_layer_nine_of_twelve_that_sums_to_one() -> None:
    target = target_of(12, depth=0.75, width=1 / 12)
    assert len(target) == 11 and target.sum() == pytest.approx(1)
    assert int(target.argmax()) + 1 == 9
    assert (target[8] / target[7]).item() == pytest.approx(math.exp(0.5))
    assert (target[8] / target[10]).item() == pytest.approx(math.exp(2))
    half = target_of(6, depth=0.75, width=1 / 12)
    assert half[3] == pytest.approx(half[4])  # between the fourth layer and the fifth


def test_the_prior_is_zero_where_scores_follow_it_and_looks_at_their_shares_alone() -> None:
    target = torch.tensor([0.2, 0.5, 0.3])
    assert prior_loss(target, target).item() == pytest.approx(0, abs=1e-6)
    assert prior_loss(1e-9 * target, target).item() == pytest.approx(0, abs=1e-6)
    scores = torch.tensor([0.1, 0.1, 0.2])
    by_hand = 0.2 * math.log(0.2 / 0.25) + 0.5 * math.log(0.5 / 0.25) + 0.3 * math.log(0.3 / 0.5)
    assert prior_loss(scores, target).item() == pytest.approx(by_hand)
    kept_off_zero = prior_loss(torch.tensor([1.0, 0, 0]), target)
    shares = (0.99, 0.01, 0.01)
    assert kept_off_zero.item() == pytest.approx(
        sum(t * math.log(t / s) for t, s in zip((0.2, 0.5, 0.3), shares, strict=True))
    )
    assert torch.isfinite(prior_loss(torch.zeros(3), target))


def test_the_prior_pulls_scores_up_where_tokens_should_halt_however_small_they_are() -> None:
    scores = torch.full((3,), 1e-12, requires_grad=True)
    prior_loss(scores, torch.tensor([0.1, 0.2, 0.7])).backward()
    assert scores.grad is not None and scores.grad[2] < 0 < scores.grad[0]


def test_the_loss_is_cross_entropy_ponder_cost_and_prior() -> None:
    settings = {"ponder_weight": 0.3, "prior_weight": 0.7, "gate_scale": 2, "gate_center": 1}
    net, batch = _net(**settings), _batch()
    terms = _phase(**settings).loss(net, batch, 0.0)
    parts, output = terms.parts, net(batch.x_nchw)
    entropy = torch.nn.functional.cross_entropy(output.logits, batch.labels_n)
    assert parts["loss"].item() == pytest.approx(entropy.item())
    total = parts["loss"] + 0.3 * parts["ponder"] + 0.7 * parts["prior"]
    assert terms.total.item() == pytest.approx(total.item())
    # N by hand from the tokens that ran, and 0 < R <= 1.
    counts = live_counts(net, batch.x_nchw)
    assert parts["layers"].item() == pytest.approx(counts.sum().item() / (8 * TOKENS))
    assert 0 < parts["ponder"] - parts["layers"] <= 1
    scores_l = output.terms["scores_nl"].mean(dim=0)
    target_l = target_of(LAYERS, depth=0.75, width=1 / 12)
    assert parts["prior"].item() == pytest.approx(prior_loss(scores_l, target_l).item())


def test_the_ponder_cost_alone_makes_tokens_halt_earlier() -> None:
    net = _net(gate_scale=2, gate_center=2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    costs = []
    for _ in range(15):
        cost = net(images(16)).terms["ponder_ns"].mean()
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
    assert costs[-1] < costs[0] - 0.5


def test_the_published_settings_are_those_of_the_readme_for_the_tiny_model() -> None:
    config, method = AVitConfig(), AVit()
    assert (config.ponder_weight, config.prior_weight, config.eps) == (5e-4, 1e-3, 0.01)
    assert (config.gate_scale, config.gate_center) == (10, 10)  # 30 and 75 for trained DeiTs
    assert method.tags.reconstructed == ("gate_center", "prior_depth", "prior_width")
    assert method.tags.starts_from_dense and method.tags.decision == "halting"
    assert method.variant(config) == "ponder=0.0005"
    published = BUDGET.model_copy(update={"epochs": 100, "published": True})
    (phase,) = method.phases(config, published)
    spec = phase.optimizer
    assert method.published_epochs(config) == 100 == phase.epochs and phase.batch_size == 512
    assert (spec.kind, spec.lr, spec.weight_decay, spec.schedule) == ("adamw", 5e-4, 0.05, "cosine")
    assert spec.warmup_steps == pytest.approx(5 * 50_000 / 512, abs=2)


def test_a_trunk_of_maps_is_refused_with_the_reason_and_a_way_out() -> None:
    with pytest.raises(NotApplicable, match=r"needs the tokens .*timm/.* resnet8 are maps"):
        AVit().build(Backbone("resnet8", 10, SHAPE), AVitConfig())


def test_the_smallest_vision_transformer_has_one_layer_and_nothing_to_decide() -> None:
    net = AVit().build(Backbone("by-hand/1", 10, SHAPE), AVitConfig())
    assert not [unit for unit in net.units() if unit.gated]
    assert "prior" not in _phase().loss(net, _batch(), 0.0).parts


class Learned(AVit):
    """What a third party may make of the same machinery: scores with weights of their own."""

    name = "learned_tokens"

    def build(self, backbone: Backbone, config: AVitConfig) -> HaltingResNet:
        return HaltingResNet(backbone, TokenHalting(backbone, learned, eps=config.eps, bias=-2.0))


@pytest.mark.parametrize("method", [AVit, Learned])
def test_the_contract_holds_on_a_transformer_written_by_hand(method: type[AVit]) -> None:
    outcomes = {
        found.check: found for found in map(Check.run, checks_of(method, backbone="by-hand/3"))
    }
    assert [str(found) for found in outcomes.values() if found.status == "failed"] == []
    assert [name for name, found in outcomes.items() if found.status == "exempt"] == ["all_off"]


def test_deits_have_the_macs_of_the_readme_where_nothing_halts() -> None:
    pytest.importorskip("timm")
    for name, macs in (("deit_tiny_patch16_224", 1.254e9), ("deit_small_patch16_224", 4.599e9)):
        backbone = Backbone(f"timm/{name}", 1000, (3, 224, 224))
        assert dense_macs(backbone) == pytest.approx(macs, rel=1e-3)


def test_the_small_vit_of_the_documents_has_the_cost_it_names() -> None:
    pytest.importorskip("timm")
    load_plugin(SMALL_VIT)
    backbone = Backbone("small_vit/6", 10, (3, 32, 32))
    layer = 12 * 65 * 64**2 + 2 * 65**2 * 64
    assert dense_macs(backbone) == 6 * layer + 64 * 48 * 64 + 640 == 22_611_328
    assert backbone.smaller(0.5) == "small_vit/3"


@torch.no_grad()
def test_the_first_channel_is_all_that_is_read() -> None:
    state = torch.randn(2, 5, 7)
    assert torch.equal(FirstChannel(4.0)(state), 4 * state[:, :, :1])


def test_a_higher_price_of_thinking_makes_a_cheaper_network() -> None:
    few, backbone = digits().train.take(torch.arange(400)), digits_backbone("by-hand/4")
    adam = OptimizerSpec(kind="adamw", lr=5e-3, weight_decay=0.01)
    budget, found = BUDGET.model_copy(update={"epochs": 6, "optimizer": adam}), []
    with using_threads(1):
        for weight in (0.0, 0.003, 0.1):
            config = AVitConfig(ponder_weight=weight, gate_scale=4, gate_center=8)
            found.append(judged(trained(AVit(), config, backbone, budget, few), backbone))
    costs, accuracies = zip(*found, strict=True)
    assert costs[0] > costs[1] + 0.02 > costs[2] + 0.04
    assert accuracies[0] > 0.6 and min(accuracies) > 0.3
