"""Better than static, worse, or not distinguishable: the decision at equal cost, as numbers.

Costs are MACs or times, whichever the `Runs` hold. Owns no words about methods and no records; the
sentences are bench.report.verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from bench.analysis.static_curve import Corners, corners_of, curve_through
from bench.analysis.statistics import Array, Bounds
from bench.analysis.uncertainty import Estimate, Runs, estimate

Judgement = Literal["better", "worse", "worse (dominated)", "not distinguishable"]
_SIGNIFICANT = 0.05


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

    `gain` is the accuracy of the method's operating point, less that of the static network at the
    only position in `static`: of the nearest cost, or where the method costs more than all of them,
    the most accurate one. `cost_error` is the standard error of the cost that timing leaves.
    """

    cost: float
    cost_error: float
    accuracy: float
    static: tuple[int]
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


def compare(
    method: Runs, statics: Sequence[Runs], *, point: int = 0
) -> Comparison | Outside | None:
    """Return how operating point `point` of `method` does against static networks of its cost; None
    if there are none.

    Which networks form the curve is decided once, from the estimates.
    """
    if not statics:
        return None
    groups = [method, *statics]
    static_cost = np.concatenate([group.cost_p for group in statics])
    static_accuracy = np.concatenate([group.accuracy_p for group in statics])
    corners = corners_of(static_cost, static_accuracy)
    curve = curve_through(corners, cost_p=static_cost, accuracy_p=static_accuracy)

    def gain_of(index: int) -> Estimate:
        """Return the gain of the method's point `index` over the curve at its own cost."""

        def gain(accuracy_p: Array, cost_p: Array) -> float:
            of_statics = slice(method.points, None)
            moved = curve_through(
                corners, cost_p=cost_p[of_statics], accuracy_p=accuracy_p[of_statics]
            )
            return float(accuracy_p[index]) - moved.at(float(cost_p[index]))

        return estimate(gain, groups)

    points = tuple(
        PointGain(cost, accuracy, gain_of(index) if curve.covers(cost) else None)
        for index, (cost, accuracy) in enumerate(
            zip(method.cost_p.tolist(), method.accuracy_p.tolist(), strict=True)
        )
    )
    cost, accuracy, gain = points[point]
    if gain is not None:
        used = _corners_around(cost, corners, static_cost)
        return Comparison(cost, accuracy, accuracy - gain.value, gain, used, points)
    if cost > curve.range.high:
        static = corners.corners[-1]
    else:
        static = int(np.abs(np.log(cost / static_cost)).argmin())

    def difference(accuracy_p: Array, cost_p: Array) -> float:
        return float(accuracy_p[point] - accuracy_p[method.points + static])

    return Outside(
        cost=cost,
        cost_error=float(method.cost_se_p[point]),
        accuracy=accuracy,
        static=(static,),
        nearest_cost=float(static_cost[static]),
        gain=estimate(difference, groups),
        static_range=curve.range,
    )


def _corners_around(cost: float, corners: Corners, static_cost: Array) -> tuple[int, ...]:
    """Return the corners between which the curve runs at `cost`."""
    chosen = list(corners.corners)
    place = static_cost[chosen]
    first = int(np.searchsorted(place, cost, side="right")) - 1
    last = int(np.searchsorted(place, cost, side="left"))
    return tuple(chosen[max(0, first) : min(last, len(chosen) - 1) + 1])


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: for K tests at once, no false one at the level of each."""
    p_k = np.asarray(p_values, dtype=float)
    order = np.argsort(p_k, kind="stable")
    adjusted = np.empty_like(p_k)
    adjusted[order] = np.maximum.accumulate(np.arange(len(p_k), 0, -1) * p_k[order]).clip(max=1)
    return [float(p) for p in adjusted]


def decide(found: Sequence[Comparison | Outside | None]) -> list[Verdict | None]:
    """Return the verdicts of comparisons that are judged at once, by Holm's p-values; None where
    there is none.

    There may be one where the costs are equal, or the method's is above all static ones. Then there
    is none if it is not significantly less accurate: nothing of its cost is known to be better or
    worse.
    """
    judged = {
        place: one
        for place, one in enumerate(found)
        if isinstance(one, Comparison) or (one is not None and one.more_expensive)
    }
    adjusted = holm([one.gain.p_value for one in judged.values()])
    decided: list[Verdict | None] = [None] * len(found)
    for (place, one), p_holm in zip(judged.items(), adjusted, strict=True):
        outcome = _outcome(one, p_holm)
        if outcome is not None:
            decided[place] = Verdict(outcome, one, one.gain.p_value, p_holm, len(judged))
    return decided


def _outcome(found: Comparison | Outside, p_value: float) -> Judgement | None:
    significant, gain = p_value < _SIGNIFICANT, found.gain.value
    if isinstance(found, Outside):
        return "worse (dominated)" if significant and gain < 0 else None
    if not significant:
        return "not distinguishable"
    return "better" if gain > 0 else "worse"
