"""What static networks reach at each cost: the line through the best of them.

Between two measured networks the line is straight; outside the measured costs there is none. Pure
functions of numbers; owns no uncertainty and no words.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from bench.analysis.pareto import front
from bench.analysis.statistics import Array, Bounds

END_TOLERANCE = 0.01
"""A cost this share beyond the cheapest or the most expensive static network counts as its cost."""


class Corners(NamedTuple):
    """Which points bend the curve, by rising cost; and the most expensive one, if it is no corner.

    A dominated network that costs more than all corners does not lift the curve, but it was run:
    up to its cost the answer is the accuracy of the last corner.
    """

    corners: tuple[int, ...]
    most_expensive: int | None


def corners_of(cost_p: Sequence[float] | Array, accuracy_p: Sequence[float] | Array) -> Corners:
    """Return the corners of the upper front of some points, one at least."""
    points = [(float(c), float(a)) for c, a in zip(cost_p, accuracy_p, strict=True)]
    # Of equal points, which are on the front together, one is enough.
    corners = tuple(next(same) for _, same in groupby(front(points), key=points.__getitem__))
    most_expensive = max(range(len(points)), key=lambda index: points[index][0])
    beyond = points[most_expensive][0] > points[corners[-1]][0]
    return Corners(corners, most_expensive if beyond else None)


class Curve(NamedTuple):
    """A piecewise linear curve: costs that rise, and an accuracy at each."""

    cost_k: Array
    accuracy_k: Array

    @property
    def range(self) -> Bounds:
        return Bounds(float(self.cost_k[0]), float(self.cost_k[-1]))

    def at(self, cost: float) -> float:
        """Return the accuracy at `cost`; beyond an end that of the end: ask `covers` first."""
        return float(np.interp(cost, self.cost_k, self.accuracy_k))

    def covers(self, cost: float) -> bool:
        """Whether networks of that cost, or on both sides of it, were measured."""
        low, high = self.range
        return low * (1 - END_TOLERANCE) <= cost <= high * (1 + END_TOLERANCE)


def curve_through(corners: Corners, *, cost_p: Array, accuracy_p: Array) -> Curve:
    """Return the curve through `corners`; the points may have moved since these were chosen."""
    chosen = list(corners.corners)
    cost_k, accuracy_k = cost_p[chosen], accuracy_p[chosen]
    if corners.most_expensive is not None:
        cost_k = np.append(cost_k, cost_p[corners.most_expensive])
        accuracy_k = np.append(accuracy_k, accuracy_k[-1])
    return Curve(cost_k, accuracy_k)
