"""The static curve on points whose answers are plain to see."""

from __future__ import annotations

import numpy as np
import pytest

from bench.analysis.static_curve import Corners, Curve, corners_of, curve_through
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
