"""Better than static, worse, or not distinguishable: the decision at equal cost, as numbers.

Costs are MACs or times, whichever the `Runs` hold. Owns no words about methods and no records; the
sentences are bench.report.verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from bench.analysis.static_curve import Corners, Curve, corners_of, curve_through
from bench.analysis.statistics import Array, Bounds
from bench.analysis.uncertainty import Estimate, Runs, Statistic, estimate

Judgement = Literal["better", "worse", "worse (dominated)", "not distinguishable"]
LEVEL = 0.95


class PointGain(NamedTuple):
    """One operating point: its cost, and its gain over static; None outside the static costs."""

    cost: float
    accuracy: float
    gain: Estimate | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """An operating point of a method against the static curve at its cost.

    `static` lists the positions of the static networks that the curve was drawn from there, and
    `points` has all operating points.
    """

    cost: float
    accuracy: float
    static_accuracy: float
    gain: Estimate
    static: tuple[int, ...]
    points: tuple[PointGain, ...]


@dataclass(frozen=True, slots=True)
class Outside:
    """No static network has the cost of the method: one that was run, and the difference to it.

    `gain` is the accuracy of the method's operating point, less that of the static network at
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
    method: Runs, statics: Sequence[Runs], *, point: int = 0, level: float = LEVEL
) -> Comparison | Outside | None:
    """Return how operating point `point` of `method` does against static networks of its cost; None
    if there are none.

    Which networks form the curve is decided once, from the estimates.
    """
    if not statics:
        return None
    static_cost = np.concatenate([group.cost_p for group in statics])
    static_accuracy = np.concatenate([group.accuracy_p for group in statics])
    corners = corners_of(static_cost, static_accuracy)
    curve = curve_through(corners, cost_p=static_cost, accuracy_p=static_accuracy)
    gains = _Gains([method, *statics], corners, level)
    points = tuple(
        PointGain(cost, accuracy, gains.at(index) if curve.covers(cost) else None)
        for index, (cost, accuracy) in enumerate(
            zip(method.cost_p.tolist(), method.accuracy_p.tolist(), strict=True)
        )
    )
    cost, accuracy, gain = points[point]
    if gain is None:
        return _outside(method, point, gains, static_cost, curve)
    used = _corners_around(cost, corners, static_cost)
    return Comparison(cost, accuracy, accuracy - gain.value, gain, used, points)


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
    p_values = [comparison.gain.p_value for comparison in comparisons]
    found: list[Verdict | None] = []
    for comparison, p_value, p_holm in zip(comparisons, p_values, holm(p_values), strict=True):
        outcome = _outcome(comparison, p_holm, level=level)
        decided = outcome and Verdict(outcome, comparison, p_value, p_holm, len(comparisons), level)
        found.append(decided or None)
    return found


def _outcome(found: Comparison | Outside, p_value: float, *, level: float) -> Judgement | None:
    significant, gain = p_value < 1 - level, found.gain.value
    if isinstance(found, Outside):
        return "worse (dominated)" if significant and gain < 0 else None
    if not significant:
        return "not distinguishable"
    return "better" if gain > 0 else "worse"


@dataclass(frozen=True, slots=True)
class _Gains:
    """Gains of a method, the first of `groups`, over the static curve through `corners`."""

    groups: Sequence[Runs]
    corners: Corners
    level: float

    def at(self, index: int) -> Estimate:
        """Return the gain of the method's point `index` at its own cost."""

        def gain(accuracy_p: Array, cost_p: Array) -> float:
            points = self.groups[0].points
            curve = curve_through(
                self.corners, cost_p=cost_p[points:], accuracy_p=accuracy_p[points:]
            )
            return float(accuracy_p[index]) - curve.at(float(cost_p[index]))

        return self._estimate(gain)

    def over(self, index: int, static: int) -> Estimate:
        """Return the accuracy of the method's point `index` less that of a static network."""
        second = self.groups[0].points + static
        return self._estimate(lambda accuracy_p, _: float(accuracy_p[index] - accuracy_p[second]))

    def _estimate(self, statistic: Statistic) -> Estimate:
        return estimate(statistic, self.groups, level=self.level)


def _corners_around(cost: float, corners: Corners, static_cost: Array) -> tuple[int, ...]:
    """Return the corners between which the curve runs at `cost`."""
    chosen = list(corners.corners)
    place = static_cost[chosen]
    first = int(np.searchsorted(place, cost, side="right")) - 1
    last = int(np.searchsorted(place, cost, side="left"))
    return tuple(chosen[max(0, first) : min(last, len(chosen) - 1) + 1])


def _outside(method: Runs, own: int, gains: _Gains, static_cost: Array, curve: Curve) -> Outside:
    cost, accuracy = float(method.cost_p[own]), float(method.accuracy_p[own])
    if cost > curve.range.high:
        static = gains.corners.corners[-1]
    else:
        static = int(np.abs(np.log(cost / static_cost)).argmin())
    error, static_of = float(method.cost_se_p[own]), float(static_cost[static])
    gain = gains.over(own, static)
    return Outside(cost, error, accuracy, static, static_of, gain, curve.range)
