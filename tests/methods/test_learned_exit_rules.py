"""The rules of learned exits: fitted and learned backwards, on losses made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from exit_nets import fresh

from bench.measure.cost import dense_macs, unit_macs
from bench.networks.exit_calibration import cost_shares
from bench.networks.exit_rules import entropy_nats, largest_probability
from methods.learned_exit import (
    LearnedRule,
    confidence_features,
    learn_backwards,
    weighted_logistic,
)

HALVES = torch.tensor([[0.5, 0.25, 0.25]]).log()


def test_the_features_are_largest_probability_entropy_and_margin() -> None:
    expected = [0.5, 1.5 * math.log(2), 0.25]
    assert confidence_features(HALVES)[0].tolist() == pytest.approx(expected)
    z = 3 * torch.randn(40, 10, generator=torch.Generator().manual_seed(3))
    assert torch.equal(confidence_features(z)[:, 1], entropy_nats(z))
    torch.testing.assert_close(confidence_features(z)[:, 0], largest_probability(z))


def test_a_learned_rule_is_a_line_through_the_features_of_its_exit_and_point() -> None:
    rule = LearnedRule(2, 2)
    assert not list(rule.parameters())
    assert not bool(rule.leaves(HALVES, (), exit_index=0, point=0))
    rule.set_point(1, torch.tensor([[0.0, 0, 0], [2.0, -1.0, 0.5]]), torch.tensor([-1.0, 0.25]))
    score = rule.scores[1]
    by_hand = 2 * 0.5 - 1.5 * math.log(2) + 0.5 * 0.25 + 0.25
    assert score(confidence_features(HALVES), 1).item() == pytest.approx(by_hand)
    assert rule.leaves(HALVES, (), exit_index=1, point=1).tolist() == [True]
    assert rule.leaves(HALVES, (), exit_index=1, point=0).tolist() == [False]
    assert rule.leaves(HALVES, (), exit_index=0, point=1).tolist() == [False]


def test_the_weighted_logistic_regression_is_at_its_minimum() -> None:
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(80, 3, generator=draws, dtype=torch.float64) * torch.tensor([1.0, 10, 0.01])
    labels, weights = torch.rand(80, generator=draws) < 0.4, torch.rand(80, generator=draws)
    w, b = weighted_logistic(x, labels, weights, ridge=0.05)
    # Gradient in the standardised parameters, by autograd, from the formula in words.
    scale, mean = x.std(dim=0, correction=0), x.mean(dim=0)
    theta = (w * scale).requires_grad_()
    intercept = (b + w @ mean).detach().requires_grad_()
    z = ((x - mean) / scale) @ theta + intercept
    share = weights.double() / weights.double().sum()
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        z, labels.double(), reduction="none"
    )
    objective = (share * losses).sum() + 0.025 * (theta @ theta + intercept**2)
    gradients = torch.autograd.grad(objective, [theta, intercept])
    assert all(float(gradient.abs().max()) < 1e-8 for gradient in gradients)


def test_weights_of_the_images_count() -> None:
    x = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    labels = torch.tensor([1, 0, 1, 0])
    for heavy, sign in ((torch.tensor([3.0, 1, 1, 3]), -1), (torch.tensor([1.0, 3, 3, 1]), 1)):
        w, b = weighted_logistic(x, labels, heavy, ridge=1e-6)
        # The odds at each value of x are the ratio of the weights: 3 to 1 or 1 to 3.
        assert b.item() == pytest.approx(-sign * math.log(3), abs=1e-3)
        assert (w[0] + b).item() == pytest.approx(sign * math.log(3), abs=1e-3)


@pytest.mark.parametrize("label", [0, 1])
def test_labels_that_are_all_alike_give_a_finite_rule_that_says_so(label: int) -> None:
    x = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    for weights in (torch.ones(20), torch.zeros(20)):
        w, b = weighted_logistic(x, torch.full((20,), label), weights, ridge=1e-3)
        assert bool(torch.isfinite(w).all()) and math.isfinite(b)
        if weights.any():
            assert bool(((x.double() @ w + b > 0) == bool(label)).all())


def test_perfectly_separable_images_end_the_search() -> None:
    x = torch.linspace(-1, 1, 40)[:, None]
    w, b = weighted_logistic(x, x[:, 0] > 0, torch.ones(40), ridge=1e-9)
    assert bool(((x[:, 0].double() * w + b > 0) == (x[:, 0] > 0)).all())


def test_rules_are_learned_from_the_last_exit_to_the_first() -> None:
    """Three kinds of images by one feature; what is best for each is worked out by hand."""
    kind_m = torch.arange(3).repeat_interleave(20)
    features_emf = kind_m[None, :, None].double().expand(2, 60, 1)
    # Wrong (1) or right (0) by way out 1, 2, 3. Costs: 0.1, 0.2, 0.6.
    losses_wm = torch.tensor([[0.0, 0, 1], [0.0, 0, 1], [0.0, 0, 0]])[:, kind_m]
    weights_ef, biases_e = learn_backwards(features_emf, losses_wm, [0.1, 0.2, 0.6], ridge=1e-6)
    leaves_em = torch.einsum("emf,ef->em", features_emf, weights_ef) + biases_e[:, None] > 0
    assert leaves_em[:, ::20].tolist() == [[True, True, False], [True, True, False]]


def test_an_earlier_rule_knows_what_the_later_ones_will_do() -> None:
    """Going on past exit 1 pays only because exit 2 will let the image leave cheaply."""
    features_emf = torch.ones(2, 10, 1, dtype=torch.float64)
    losses_wm = torch.tensor([[0.5], [0.0], [0.0]]).double().expand(3, 10)
    stop_early = learn_backwards(features_emf, losses_wm, [0.0, 0.7, 0.9], ridge=1e-6)
    go_to_exit_2 = learn_backwards(features_emf, losses_wm, [0.0, 0.3, 0.9], ridge=1e-6)
    assert float(stop_early[0][0] @ features_emf[0, 0] + stop_early[1][0]) > 0
    assert float(go_to_exit_2[0][0] @ features_emf[0, 0] + go_to_exit_2[1][0]) < 0
    assert float(go_to_exit_2[0][1] @ features_emf[0, 0] + go_to_exit_2[1][1]) > 0


@pytest.mark.parametrize("rule", ["entropy", "learned"])
@torch.no_grad()
def test_the_cost_of_a_way_out_is_that_of_all_units_before_it(rule: str) -> None:
    net = fresh(rule, head="convolution")
    macs, dense = unit_macs(net), dense_macs(net.backbone)
    policy = sum(macs[unit.name] for unit in net.units() if unit.role == "policy")
    first = ["stem", "block0", "block1", "exit1", *(["exit1.rule"] if rule == "learned" else [])]
    shares = cost_shares(net)
    assert shares[0] * dense == pytest.approx(sum(macs[name] for name in first))
    assert shares[-1] == pytest.approx(1 + policy / dense)
    assert shares == sorted(shares)
