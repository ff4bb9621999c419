"""Better than static, worse, or not distinguishable: the decision at equal cost, as numbers.

Costs are MACs or times, whichever the `Runs` hold. Owns no words about methods and no records; the
sentences are bench.report.verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from bench.analysis.static_curve import (
    Array,
    Corners,
    Curve,
    common_range,
    corners_of,
    curve_through,
    in_order_of_cost,
    mean_over,
)
from bench.analysis.statistics import Bounds
from bench.analysis.uncertainty import Estimate, Runs, estimate

Judgement = Literal["better", "worse", "worse (dominated)", "not distinguishable"]
LEVEL = 0.95


class PointGain(NamedTuple):
    """One operating point: its cost, and its gain over static; None outside the static costs."""

    cost: float
    accuracy: float
    gain: Estimate | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A method against the static curve over `costs`, where both were measured.

    With one operating point in the static range the costs are that point's, and accuracies are
    those at that cost; with several, means over the range. `static` lists the positions of the
    static networks that the curve was drawn from in that range.
    """

    costs: Bounds
    accuracy: float
    static_accuracy: float
    gain: Estimate
    static: tuple[int, ...]
    points: tuple[PointGain, ...]


@dataclass(frozen=True, slots=True)
class Outside:
    """No static network has the cost of the method: one that was run, and the difference to it.

    `gain` is the accuracy of the method's point of cost `cost`, less that of the static network at
    position `nearest`: of the nearest cost, or where the method costs more than all of them, the
    most accurate one. `cost_error` is the standard error of the cost that timing leaves.
    """

    cost: float
    cost_error: float
    accuracy: float
    nearest: int
    nearest_cost: float
    gain: Estimate
    static_range: Bounds

    @property
    def more_expensive(self) -> bool:
        """Whether it certainly costs more than every static network.

        By two standard errors: one that may well cost the same is not called more expensive.
        """
        return self.cost - 2 * self.cost_error > self.static_range.high

    @property
    def costs(self) -> Bounds:
        return Bounds(self.cost, self.cost)

    @property
    def static_accuracy(self) -> float:
        return self.accuracy - self.gain.value

    @property
    def static(self) -> tuple[int, ...]:
        return (self.nearest,)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A comparison decided among `family` comparisons at once; both p-values are kept.

    It is of an `Outside` where the method is dominated: it costs more than a static network that is
    significantly more accurate.
    """

    outcome: Judgement
    comparison: Comparison | Outside
    p_value: float
    p_holm: float
    family: int
    level: float


def compare(
    method: Runs, statics: Sequence[Runs], *, level: float = LEVEL
) -> Comparison | Outside | None:
    """Return how `method` does against static networks of its cost; None if there are none.

    Which networks form the curve is decided once, from the estimates.
    """
    if not statics:
        return None
    static_cost = np.concatenate([group.cost_p for group in statics])
    static_accuracy = np.concatenate([group.accuracy_p for group in statics])
    groups = [method, *statics]
    corners = corners_of(static_cost, static_accuracy)
    curve = curve_through(corners, cost_p=static_cost, accuracy_p=static_accuracy)
    own = in_order_of_cost(method.cost_p)
    points = _points(method, groups, corners, curve=curve, level=level)
    own_curve = curve_through(own, cost_p=method.cost_p, accuracy_p=method.accuracy_p)
    costs = common_range(own_curve, curve)
    if costs is not None:
        mean_gain = _MeanGain(method.points, own, corners)
        gain = estimate(mean_gain, groups, level=level)
        accuracy = mean_over(own_curve, costs)
        return _comparison(costs, accuracy, gain, corners, static_cost, points)
    inside = [point for point in points if point.gain is not None]
    if inside:
        best = max(inside, key=lambda point: point.accuracy)
        assert best.gain is not None
        costs = Bounds(best.cost, best.cost)
        return _comparison(costs, best.accuracy, best.gain, corners, static_cost, points)
    return _outside(method, statics, static_cost, corners, curve=curve, level=level)


def can_be_judged(found: Comparison | Outside | None) -> bool:
    """Whether there is a verdict to be had: the costs are equal, or the method's are above all."""
    return isinstance(found, Comparison) or (isinstance(found, Outside) and found.more_expensive)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: for K tests at once, no false one at the level of each."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def decide(
    comparisons: Sequence[Comparison | Outside], *, level: float = LEVEL
) -> list[Verdict | None]:
    """Return the verdicts of comparisons that are judged at once, by Holm's p-values.

    Each must pass `can_be_judged`. None: it costs more than all static networks and is not
    significantly less accurate, so that nothing of its cost is known to be better or worse.
    """
    adjusted = holm([comparison.gain.p_value for comparison in comparisons])
    found: list[Verdict | None] = []
    for comparison, p_holm in zip(comparisons, adjusted, strict=True):
        outcome = _outcome(comparison, p_holm, level=level)
        p_value, family = comparison.gain.p_value, len(comparisons)
        found.append(
            None
            if outcome is None
            else Verdict(outcome, comparison, p_value, p_holm, family, level)
        )
    return found


def _outcome(found: Comparison | Outside, p_value: float, *, level: float) -> Judgement | None:
    significant, gain = p_value < 1 - level, found.gain.value
    if isinstance(found, Outside):
        return "worse (dominated)" if significant and gain < 0 else None
    if not significant:
        return "not distinguishable"
    return "better" if gain > 0 else "worse"


@dataclass(frozen=True, slots=True)
class _PointGain:
    """The gain of the method's point `index`; the method's points come first."""

    index: int
    method_points: int
    corners: Corners

    def __call__(self, accuracy_p: Array, cost_p: Array) -> float:
        curve = curve_through(
            self.corners,
            cost_p=cost_p[self.method_points :],
            accuracy_p=accuracy_p[self.method_points :],
        )
        return float(accuracy_p[self.index]) - curve.at(float(cost_p[self.index]))


@dataclass(frozen=True, slots=True)
class _MeanGain:
    """The mean gain of the method's curve over the costs that both curves cover."""

    method_points: int
    own: Corners
    corners: Corners

    def __call__(self, accuracy_p: Array, cost_p: Array) -> float:
        k = self.method_points
        own = curve_through(self.own, cost_p=cost_p[:k], accuracy_p=accuracy_p[:k])
        static = curve_through(self.corners, cost_p=cost_p[k:], accuracy_p=accuracy_p[k:])
        costs = common_range(own, static)
        return mean_over(own, costs) - mean_over(static, costs) if costs is not None else 0.0


@dataclass(frozen=True, slots=True)
class _Difference:
    first: int
    second: int

    def __call__(self, accuracy_p: Array, cost_p: Array) -> float:
        del cost_p
        return float(accuracy_p[self.first] - accuracy_p[self.second])


def _points(
    method: Runs, groups: Sequence[Runs], corners: Corners, *, curve: Curve, level: float
) -> tuple[PointGain, ...]:
    return tuple(
        PointGain(
            cost,
            accuracy,
            estimate(_PointGain(index, method.points, corners), groups, level=level)
            if curve.covers(cost)
            else None,
        )
        for index, (cost, accuracy) in enumerate(
            zip(method.cost_p.tolist(), method.accuracy_p.tolist(), strict=True)
        )
    )


def _comparison(
    costs: Bounds,
    accuracy: float,
    gain: Estimate,
    corners: Corners,
    static_cost: Array,
    points: tuple[PointGain, ...],
) -> Comparison:
    used = _corners_within(costs, corners, static_cost)
    return Comparison(costs, accuracy, accuracy - gain.value, gain, used, points)


def _corners_within(costs: Bounds, corners: Corners, static_cost: Array) -> tuple[int, ...]:
    """Return the corners between which the curve runs from `costs.low` to `costs.high`."""
    chosen = list(corners.corners)
    place = static_cost[chosen]
    first = int(np.searchsorted(place, costs.low, side="right")) - 1
    last = int(np.searchsorted(place, costs.high, side="left"))
    return tuple(chosen[max(0, first) : min(last, len(chosen) - 1) + 1])


def _outside(
    method: Runs,
    statics: Sequence[Runs],
    static_cost: Array,
    corners: Corners,
    *,
    curve: Curve,
    level: float,
) -> Outside:
    if method.cost_p.min() > curve.range.high:
        own, static = int(method.accuracy_p.argmax()), corners.corners[-1]
    else:
        ratio = np.abs(np.log(method.cost_p[:, None] / static_cost[None, :]))
        own, static = (int(k) for k in np.unravel_index(int(ratio.argmin()), ratio.shape))
    gain = estimate(_Difference(own, method.points + static), [method, *statics], level=level)
    cost, accuracy = float(method.cost_p[own]), float(method.accuracy_p[own])
    error, static_of = float(method.cost_se_p[own]), float(static_cost[static])
    return Outside(cost, error, accuracy, static, static_of, gain, curve.range)
