"""Which points are worth having: the Pareto front of cost and accuracy, and its hypervolume.

A point is dominated if another costs no more and is no less accurate, and is better in one of the
two. Pure functions of numbers; owns no records and no drawing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[float, float]


def front(points: Sequence[Point]) -> list[int]:
    """Return the indices of the points (cost, accuracy) that none dominates, by rising cost.

    Equal points stay together: neither dominates the other. A point with a NaN is never on it.
    """
    finite = [i for i, (cost, acc) in enumerate(points) if not math.isnan(cost + acc)]
    order = sorted(finite, key=lambda i: (points[i][0], -points[i][1]))
    kept: list[int] = []
    best = -math.inf
    for index in order:
        accuracy = points[index][1]
        if accuracy > best or (kept and points[index] == points[kept[-1]]):
            kept.append(index)
            best = accuracy
    return kept


def hypervolume(points: Sequence[Point], *, worst_cost: float, worst_accuracy: float) -> float:
    """Return the area between the front and the corner (worst_cost, worst_accuracy).

    Larger is better. What lies beyond the corner adds nothing.
    """
    inside = [p for p in points if p[0] < worst_cost and p[1] > worst_accuracy]
    area, floor = 0.0, worst_accuracy
    for index in front(inside):
        cost, accuracy = inside[index]
        area += (worst_cost - cost) * (accuracy - floor)
        floor = accuracy
    return area
