"""The static curve on points whose answers are plain to see."""

from __future__ import annotations

import numpy as np
import pytest

from bench.analysis.static_curve import (
    Corners,
    Curve,
    common_range,
    corners_of,
    curve_through,
    mean_over,
)
from bench.analysis.statistics import Bounds

COST, ACCURACY = np.array([3.0, 1.0, 2.0, 4.0]), np.array([0.9, 0.8, 0.79, 0.88])


def static() -> Curve:
    return curve_through(corners_of(COST, ACCURACY), cost_p=COST, accuracy_p=ACCURACY)


def test_dominated_networks_bend_nothing() -> None:
    assert corners_of(COST, ACCURACY) == Corners((1, 0), most_expensive=3)
    assert static().at(2.0) == pytest.approx(0.85)


def test_a_more_expensive_network_that_is_worse_extends_the_curve_level() -> None:
    assert static().range == Bounds(1.0, 4.0)
    assert static().at(3.7) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("cost", "covered"), [(0.98, False), (0.995, True), (2.5, True), (4.03, True), (4.1, False)]
)
def test_outside_the_measured_costs_there_is_no_curve(cost: float, covered: bool) -> None:
    assert static().covers(cost) is covered


def test_equal_points_are_one_corner_and_one_point_is_a_curve() -> None:
    assert corners_of([1.0, 1.0], [0.9, 0.9]).corners == (0,)
    one = Curve(np.array([1.0]), np.array([0.9]))
    assert one.covers(1.0)
    assert not one.covers(1.2)
    with pytest.raises(ValueError, match="needs points"):
        corners_of([], [])


def test_the_mean_over_a_range_is_the_area_under_straight_lines() -> None:
    curve = Curve(np.array([0.0, 1.0, 3.0]), np.array([0.0, 1.0, 0.0]))
    assert mean_over(curve, Bounds(0.0, 3.0)) == pytest.approx(1.5 / 3)
    assert mean_over(curve, Bounds(0.5, 2.0)) == pytest.approx((0.375 + 0.75) / 1.5)


def test_curves_that_only_touch_have_no_range_in_common() -> None:
    other = Curve(np.array([4.0, 6.0]), np.array([0.9, 0.95]))
    assert common_range(static(), other) is None
    assert common_range(static(), Curve(np.array([2.0, 6.0]), other.accuracy_k)) == (2.0, 4.0)
