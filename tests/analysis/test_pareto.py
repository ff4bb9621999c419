"""The front and the hypervolume against their definitions, by brute force."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.pareto import Point, front, hypervolume

# Few distinct values, so that ties of one or both coordinates are common.
GRID = st.integers(0, 6).map(lambda step: step / 4)
POINTS = st.lists(st.tuples(GRID, GRID), max_size=12)


def dominates(a: Point, b: Point) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and a != b


@given(POINTS)
def test_the_front_is_what_nothing_dominates(points: list[Point]) -> None:
    expected = {
        i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)
    }
    found = front(points)
    assert set(found) == expected
    assert len(found) == len(expected)


@given(POINTS)
def test_the_front_rises_in_cost_and_accuracy(points: list[Point]) -> None:
    along = [points[i] for i in front(points)]
    assert along == sorted(along)


@given(POINTS, st.randoms(use_true_random=False))
def test_the_order_of_the_points_does_not_matter(points: list[Point], random: object) -> None:
    shuffled = list(points)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert [points[i] for i in front(points)] == [shuffled[i] for i in front(shuffled)]


def test_equal_points_are_both_on_the_front() -> None:
    assert front([(1.0, 0.9), (1.0, 0.9), (1.0, 0.8), (2.0, 0.9)]) == [0, 1]


def test_a_point_that_is_not_a_number_is_left_out() -> None:
    assert front([(math.nan, 0.9), (1.0, math.nan), (1.0, 0.5)]) == [2]


@given(POINTS)
def test_the_hypervolume_is_the_number_of_dominated_cells(points: list[Point]) -> None:
    side = 0.25
    cells = sum(
        any(cost <= x * side and accuracy >= (y + 1) * side for cost, accuracy in points)
        for x in range(6)
        for y in range(6)
    )
    area = hypervolume(points, worst_cost=1.5, worst_accuracy=0.0)
    assert area == pytest.approx(cells * side * side)


@given(POINTS, st.tuples(GRID, GRID))
def test_another_point_never_lowers_the_hypervolume(points: list[Point], extra: Point) -> None:
    before = hypervolume(points, worst_cost=1.5, worst_accuracy=0.0)
    after = hypervolume([*points, extra], worst_cost=1.5, worst_accuracy=0.0)
    assert after >= before - 1e-12
