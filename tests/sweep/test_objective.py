"""Scores of trials: accuracy at a budget, and hypervolume."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sweep.objective import Objective

SHARES = st.floats(0, 1)


def test_within_the_budget_accuracy_counts_and_nothing_else() -> None:
    objective = Objective(0.5, 10)
    assert objective.score([(0.5, 0.9)]) == objective.score([(0.1, 0.9)]) == 0.9


@given(inside=SHARES, beyond=st.floats(0.51, 2), accuracy=SHARES, other=SHARES)
def test_whatever_keeps_to_the_budget_beats_whatever_does_not(
    inside: float, beyond: float, accuracy: float, other: float
) -> None:
    objective = Objective(0.5, 10)
    assert objective.score([(inside * 0.5, accuracy)]) > objective.score([(beyond, other)])


def test_of_several_points_the_best_within_the_budget_counts() -> None:
    objective = Objective(0.5, 10)
    assert objective.score([(0.3, 0.8), (0.45, 0.85), (0.9, 0.95)]) == 0.85
    assert objective.allows([(0.9, 0.95), (0.4, 0.1)])
    assert not objective.allows([(0.9, 0.95)])


def test_hypervolume_is_the_area_to_the_corner_of_no_use() -> None:
    objective = Objective(None, 10)
    assert objective.score([(0.5, 0.9)]) == pytest.approx(0.5 * 0.8)
    assert objective.score([(0.5, 0.9), (0.25, 0.6)]) == pytest.approx(0.5 * 0.8 + 0.25 * 0.5)
    assert objective.score([(1.2, 0.9)]) == objective.score([(0.5, 0.05)]) == 0


def test_the_criterion_is_said_in_words() -> None:
    assert "0.7 of the dense network's MACs" in Objective(0.7, 10).sentence()
    assert "hypervolume" in Objective(None, 4).sentence()
    assert "(1, 0.25)" in Objective(None, 4).sentence()
