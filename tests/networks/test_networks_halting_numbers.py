"""The arithmetic of halting, against values worked out by hand and against its definition."""

from __future__ import annotations

import pytest
import torch
from halting_nets import EPS
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.networks.halting import lefts_of, ponder, weigh


def pondered(scores_l: list[float]) -> tuple[list[float], float, float]:
    """Return p, N and N + R of one image whose last unit has no score."""
    scores = [torch.full((1, 1, 1, 1), h) for h in scores_l]
    lefts = lefts_of(torch.ones(1, 1, 1, 1), scores, eps=EPS)
    units, cost = ponder(lefts)
    weights = [a - b for a, b in zip(lefts, [*lefts[1:], 0.0], strict=True)]
    return [float(p) for p in weights], units.item(), cost.item()


@pytest.mark.parametrize(
    ("scores", "weights", "units", "cost"),
    [
        ([0.3, 0.5, 0.4], [0.3, 0.5, 0.2, 0.0], 3, 3.2),
        ([0.3, 0.5, 0.1], [0.3, 0.5, 0.1, 0.1], 4, 4.1),
        ([0.995, 0.2, 0.9], [1.0, 0.0, 0.0, 0.0], 1, 2.0),
        ([0.5, 0.495, 0.3], [0.5, 0.5, 0.0, 0.0], 2, 2.5),
        ([0.5, 0.485, 0.3], [0.5, 0.485, 0.015, 0.0], 3, 3.015),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], 4, 5.0),
        ([1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], 1, 2.0),
        ([], [1.0], 1, 2.0),
    ],
)
def test_weights_units_and_ponder_cost_are_those_worked_out_by_hand(
    scores: list[float], weights: list[float], units: int, cost: float
) -> None:
    found, found_units, found_cost = pondered(scores)
    assert found == pytest.approx(weights, abs=1e-6)
    assert found_units == units
    assert found_cost == pytest.approx(cost)


def by_definition(scores_l: list[float]) -> tuple[list[float], int, float]:
    """Return p, N and R straight from the definitions, in double precision."""
    padded = [*scores_l, 1.0]
    sums = [sum(padded[: n + 1]) for n in range(len(padded))]
    last = next(n for n, total in enumerate(sums) if total >= 1 - EPS or n == len(scores_l))
    remainder = 1 - sum(padded[:last])
    return padded[:last] + [remainder] + [0.0] * (len(scores_l) - last), last + 1, remainder


@given(st.lists(st.floats(0, 1, width=32), min_size=0, max_size=18))
@settings(deadline=None, derandomize=True)
def test_the_weights_add_up_to_one_and_the_ponder_cost_bounds_the_units(
    scores: list[float],
) -> None:
    sums = [sum(scores[: n + 1]) for n in range(len(scores))]
    weights, units, cost = pondered(scores)
    assert sum(weights) == pytest.approx(1, abs=1e-5)
    assert min(weights) >= 0 and units <= cost
    if all(abs(total - (1 - EPS)) > 1e-5 for total in sums):
        expected, count, remainder = by_definition(scores)
        assert weights == pytest.approx(expected, abs=1e-5)
        assert (units, cost) == (count, pytest.approx(count + remainder, abs=1e-5))


def test_the_ponder_cost_has_its_gradient_through_the_remainder_alone() -> None:
    scores = torch.tensor([0.3, 0.5, 0.4, 0.9], requires_grad=True)
    ones = torch.ones(1, 1, 1, 1)
    _, cost = ponder(lefts_of(ones, (h.view(1, 1, 1, 1) for h in scores), eps=EPS))
    (gradient,) = torch.autograd.grad(cost.sum(), scores)
    assert gradient.tolist() == [-1, -1, 0, 0]  # R = 1 - h_1 - h_2, N counts


def test_a_score_moves_weight_between_its_state_and_the_state_halted_at() -> None:
    scores = torch.tensor([0.3, 0.5, 0.4, 0.9], requires_grad=True)
    states = torch.tensor([2.0, 3.0, 7.0, 11.0, 13.0])
    left, out = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    for h, x in zip(scores, states, strict=False):
        weights = weigh(left, h.view(1, 1, 1, 1), eps=EPS)
        left, out = left - weights, out + weights * x
    out = out + left * states[-1]
    assert out.item() == pytest.approx(0.3 * 2 + 0.5 * 3 + 0.2 * 7)
    (gradient,) = torch.autograd.grad(out.sum(), scores)
    assert gradient.tolist() == [2 - 7, 3 - 7, 0, 0]


def test_a_score_behind_the_halt_does_not_matter_even_if_it_is_large() -> None:
    assert pondered([0.6, 0.6, 0.9]) == pondered([0.6, 0.6, 0.0])
