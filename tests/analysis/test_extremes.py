"""The cheapest and most expensive images: ordered, stable, and none in both."""

from __future__ import annotations

import numpy as np

from bench.analysis.extremes import SHOWN_IMAGES, extremes_of


def test_the_most_extreme_come_first_and_equal_costs_keep_their_order() -> None:
    cost_n = np.array([2.0, 1.0, 3.0, 1.0, 3.0, 2.0])
    assert extremes_of(cost_n) == ((1, 3, 0), (2, 4, 0))


def test_there_are_only_so_many() -> None:
    cheapest, most_expensive = extremes_of(np.arange(100.0))
    assert cheapest == tuple(range(SHOWN_IMAGES)) and most_expensive == tuple(range(99, 89, -1))
    assert extremes_of(np.ones(1)) == ((), ())
