"""Thresholds from shares, on confidences made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from exit_nets import BUDGETS, calibrated, fresh
from gated_nets import images
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.errors import ConfigError
from bench.networks.exit_calibration import (
    ascending,
    calibrate_to_budgets,
    cut_within,
    cuts_for_shares,
    exit_shares,
    held_out_answers,
)


def ways_of(confidence_em: Tensor, cuts: list[float]) -> Tensor:
    """Return by which way out each of M images leaves."""
    way_m = torch.full((confidence_em.shape[1],), len(cuts))
    for e in reversed(range(len(cuts))):
        way_m[confidence_em[e] > cuts[e]] = e
    return way_m


def counts(confidence_em: Tensor, shares: list[float]) -> list[int]:
    way_m = ways_of(confidence_em, cuts_for_shares(confidence_em, shares))
    return way_m.bincount(minlength=len(shares)).tolist()


def test_shares_are_proportional_to_powers_of_p() -> None:
    assert exit_shares(1.0, exits=3) == pytest.approx([1 / 3] * 3)
    assert exit_shares(2.0, exits=3) == pytest.approx([1 / 7, 2 / 7, 4 / 7])
    assert exit_shares(0.5, exits=2) == pytest.approx([2 / 3, 1 / 3])


def test_exactly_the_asked_share_leaves_and_the_surest_first() -> None:
    confidence = torch.tensor([[9.0, 1, 8, 2, 7, 3, 6, 4, 5, 0], [0.0, 9, 1, 8, 2, 7, 3, 6, 4, 5]])
    cuts = cuts_for_shares(confidence, [0.3, 0.2, 0.5])
    assert cuts[0] == 6.5, "halfway between the last who leaves and the first who stays"
    # Those with 9, 8 and 7 are gone; of the rest, 9 and 8 of the second row are the surest.
    assert ways_of(confidence, cuts).tolist() == [0, 1, 0, 1, 0, 2, 2, 2, 2, 2]


def test_who_ties_with_the_last_who_leaves_goes_too() -> None:
    confidence = torch.tensor([[5.0, 5, 5, 1, 0, 0], [1.0, 2, 3, 4, 5, 6]])
    assert counts(confidence, [1 / 6, 3 / 6, 2 / 6]) == [3, 1, 2]
    assert counts(torch.ones(2, 6), [1 / 6, 2 / 6, 3 / 6]) == [6, 0, 0]


def test_nobody_and_everybody_are_infinite_cuts() -> None:
    confidence = torch.arange(8.0)[None]
    assert cuts_for_shares(confidence, [0.0, 1.0]) == [math.inf]
    assert cuts_for_shares(confidence, [1.0, 0.0]) == [-math.inf]


def test_neighbours_in_float32_are_differences() -> None:
    low = torch.tensor(0.3)
    high = torch.nextafter(low, torch.tensor(1.0))
    confidence = torch.stack([low, high]).double()[None]
    (cut,) = cuts_for_shares(confidence, [0.5, 0.5])
    assert float(low) < cut < float(high)


@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 60),
    exits=st.integers(1, 4),
    p=st.floats(0.05, 6.0),
)
@settings(deadline=None, max_examples=60, derandomize=True)
def test_without_ties_the_number_gone_after_each_exit_is_exact(
    seed: int, count: int, exits: int, p: float
) -> None:
    draws = torch.Generator().manual_seed(seed)
    confidence = torch.rand(exits, count, generator=draws, dtype=torch.float64)
    shares = exit_shares(p, exits=exits + 1)
    gone = torch.tensor(counts(confidence, shares)).cumsum(0).tolist()
    assert gone == [*(round(sum(shares[: e + 1]) * count) for e in range(exits)), count]


@given(seed=st.integers(0, 1000), values=st.integers(2, 9))
@settings(deadline=None, max_examples=40, derandomize=True)
def test_with_ties_too_a_larger_p_lets_no_more_images_leave_early(seed: int, values: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    confidence = torch.randint(values, (2, 50), generator=draws).double()
    first = [counts(confidence, exit_shares(p, exits=3))[0] for p in (0.1, 0.5, 1.0, 2.0, 8.0)]
    assert first == sorted(first, reverse=True)


@pytest.mark.parametrize("rule", ["entropy", "probability"])
@torch.no_grad()
def test_each_point_gets_the_exit_distribution_of_its_p(rule: str) -> None:
    net, held_out = calibrated(rule), torch.cat([images(64, seed=50), images(64, seed=51)])
    for point, p in enumerate(BUDGETS):
        exit_n = net.at(point)(held_out).terms["exit_n"]
        found = exit_n.bincount(minlength=3).cumsum(0).tolist()
        shares = exit_shares(p, exits=3)
        assert found == [round(128 * sum(shares[: k + 1])) for k in range(3)]


@torch.no_grad()
def test_thresholds_do_not_depend_on_how_the_held_out_images_are_batched() -> None:
    net, x = fresh(), images(60, seed=9)
    found = []
    for size in (60, 7, 1):
        calibrate_to_budgets(net, torch.split(x, size), BUDGETS)
        assert net.rule.thresholds_pe is net.get_buffer("rule.thresholds_pe")
        found.append(net.get_buffer("rule.thresholds_pe").clone())
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_without_held_out_images_there_is_an_error_that_says_how_to_get_some() -> None:
    with pytest.raises(ConfigError, match="there are none") as caught:
        calibrate_to_budgets(fresh(), [], BUDGETS)
    assert "--held-out" in str(caught.value.hint)


def test_calibration_leaves_no_gradient_behind() -> None:
    assert not held_out_answers(fresh(), [images(4)]).requires_grad


def test_settings_that_do_not_rise_are_refused() -> None:
    assert ascending((0.1, 0.2)) == (0.1, 0.2)
    for wrong in ((), (0.2, 0.1), (0.1, 0.1)):
        with pytest.raises(ValueError, match="larger than the one before"):
            ascending(wrong)


@given(seed=st.integers(0, 1000), values=st.integers(2, 40), budget=st.floats(0.1, 1.3))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_of_the_cuts_within_a_budget_the_highest_is_taken(
    seed: int, values: int, budget: float
) -> None:
    draws = torch.Generator().manual_seed(seed)
    confidence = torch.randint(values, (3, 20), generator=draws).double()
    costs = torch.tensor([0.2, 0.5, 0.8, 1.1]).double()

    def cost(cut: float) -> float:
        return costs[ways_of(confidence, [cut] * 3)].mean().item()

    cut = cut_within(confidence, costs.tolist(), budget)
    higher = [level + 0.5 for level in range(values) if level + 0.5 > cut]
    assert cost(cut) <= budget + 1e-9 or (cut == -math.inf and cost(-math.inf) > budget)
    assert all(cost(other) > budget - 1e-9 for other in higher if cost(other) != cost(cut))


def test_with_costs_to_spare_nobody_leaves_early() -> None:
    confidence = torch.tensor([[0.5, 0.9], [0.7, 0.9]]).double()
    assert cut_within(confidence, [0.2, 0.5, 1.0], 1.0) == math.inf
    assert cut_within(confidence, [0.2, 0.5, 1.0], 0.61) == pytest.approx(0.8)
    assert cut_within(confidence, [0.2, 0.5, 1.0], 0.1) == -math.inf
