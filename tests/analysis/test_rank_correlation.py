"""Spearman's correlation, against values worked out by hand and by another library."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from bench.analysis.statistics import rank_correlation, rank_correlation_within

values = st.lists(st.integers(0, 5), min_size=3, max_size=30)


def test_it_sees_order_and_nothing_else() -> None:
    a_n = np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(a_n, np.exp(a_n)) == pytest.approx(1)
    assert rank_correlation(a_n, -(a_n**3)) == pytest.approx(-1)
    assert rank_correlation(a_n, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.8)


def test_a_constant_side_has_none() -> None:
    assert rank_correlation(np.ones(3), np.arange(3)) is None
    assert rank_correlation(np.arange(1), np.arange(1)) is None


def test_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        rank_correlation(np.arange(3), np.arange(2))


@given(values, st.randoms(use_true_random=False))
def test_with_ties_it_is_what_scipy_says(a: list[int], draws: object) -> None:
    b = sorted(a, key=lambda value: draws.random())  # type: ignore[attr-defined]
    found = rank_correlation(np.array(a), np.array(b))
    if len(set(a)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_within_groups_an_order_between_groups_does_not_count() -> None:
    group_n = np.array([0, 0, 0, 1, 1, 1])
    rising = rank_correlation_within(
        np.array([1, 2, 3, 11, 12, 13]), np.array([7, 8, 9, 1, 2, 3]), group_n
    )
    assert rising is not None
    assert rising.value == pytest.approx(1)
    assert rising.degrees == 6 - 2 - 1
    assert rank_correlation(np.array([1, 2, 3, 11, 12, 13]), np.array([7, 8, 9, 1, 2, 3])) < 0  # type: ignore[operator]
    assert rank_correlation_within(group_n, np.arange(6), group_n) is None


@given(values, st.randoms(use_true_random=False))
def test_within_one_group_it_is_the_plain_one(a: list[int], draws: object) -> None:
    b = sorted(a, key=lambda value: draws.random())  # type: ignore[attr-defined]
    found = rank_correlation_within(np.array(a), np.array(b), np.zeros(len(a)))
    plain = rank_correlation(np.array(a), np.array(b))
    assert (found is None) is (plain is None)
    if found is not None:
        assert found.value == pytest.approx(plain)
