"""Statistics against published tables, closed forms, brute force and another library."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from bench.analysis.statistics import (
    SHOWN_IMAGES,
    critical_value,
    extremes_of,
    rank_correlation,
    sample_sd,
    t_interval,
    two_sided_p,
    wilson_interval,
)

FLOATS = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20)


@given(FLOATS)
def test_the_sd_agrees_with_numpy(values: list[float]) -> None:
    assert sample_sd(values) == pytest.approx(np.std(values, ddof=1), abs=1e-9)


def test_one_seed_has_no_sd_and_no_interval() -> None:
    assert sample_sd([0.9]) is None
    assert t_interval([0.9]) is None


@pytest.mark.parametrize(
    ("degrees", "critical"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227)],
)
def test_critical_values_are_those_of_the_tables(degrees: int, critical: float) -> None:
    assert critical_value(0.95, degrees) == pytest.approx(critical, rel=1e-5)


def test_degrees_may_be_fractions_or_infinitely_many() -> None:
    for degrees in (1.3, 4.71, 133.3):
        assert two_sided_p(critical_value(0.95, degrees), degrees) == pytest.approx(0.05)
    assert critical_value(0.95, math.inf) == pytest.approx(1.959964, rel=1e-6)
    assert two_sided_p(-2.0, 3.0) == two_sided_p(2.0, 3.0)
    assert two_sided_p(math.inf, 3.0) == 0


@pytest.mark.parametrize(("n", "multiplier"), [(3, 2.48), (5, 1.24)])
def test_the_interval_multiplies_the_sd_as_expected(n: int, multiplier: float) -> None:
    values = [0.9 + 0.01 * i for i in range(n)]
    bounds, spread = t_interval(values), sample_sd(values)
    assert bounds is not None
    assert spread is not None
    assert (bounds.high - bounds.low) / 2 / spread == pytest.approx(multiplier, abs=0.005)


def test_ten_thousand_images_at_93_percent_give_half_a_point() -> None:
    low, high = wilson_interval(9300, 10_000)
    assert (high - low) / 2 == pytest.approx(0.0050, abs=5e-5)


@given(st.integers(0, 200), st.integers(1, 200))
def test_the_wilson_interval_holds_the_share_and_stays_inside(correct: int, total: int) -> None:
    if correct > total:
        with pytest.raises(ValueError, match="not a share"):
            wilson_interval(correct, total)
        return
    low, high = wilson_interval(correct, total)
    assert 0 <= low <= correct / total <= high <= 1
    for bound in (low, high):
        # The definition: the bound is the share at which the observation is z deviations away.
        distance = abs(correct / total - bound)
        deviation = math.sqrt(bound * (1 - bound) / total)
        assert distance == pytest.approx(1.959964 * deviation, abs=1e-9)


values = st.lists(st.integers(0, 5), min_size=3, max_size=30)


def test_a_rank_correlation_sees_order_and_nothing_else() -> None:
    a_n = np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(a_n, np.exp(a_n)) == pytest.approx(1)
    assert rank_correlation(a_n, -(a_n**3)) == pytest.approx(-1)
    assert rank_correlation(a_n, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.8)


def test_a_constant_side_has_no_rank_correlation() -> None:
    assert rank_correlation(np.ones(3), np.arange(3)) is None
    assert rank_correlation(np.arange(1), np.arange(1)) is None


@given(values, st.randoms(use_true_random=False))
def test_a_rank_correlation_with_ties_is_what_scipy_says(a: list[int], draws: object) -> None:
    b = sorted(a, key=lambda value: draws.random())  # type: ignore[attr-defined]
    found = rank_correlation(np.array(a), np.array(b))
    if len(set(a)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_the_most_extreme_images_come_first_and_equal_costs_keep_their_order() -> None:
    cost_n = np.array([2.0, 1.0, 3.0, 1.0, 3.0, 2.0])
    assert extremes_of(cost_n) == ((1, 3, 0), (2, 4, 0))


def test_there_are_only_so_many_extreme_images() -> None:
    cheapest, most_expensive = extremes_of(np.arange(100.0))
    assert cheapest == tuple(range(SHOWN_IMAGES)) and most_expensive == tuple(range(99, 89, -1))
    assert extremes_of(np.ones(1)) == ((), ())
