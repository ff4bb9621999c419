"""Pareto data, accuracy against cost: where a group or a published point lies, what is shown of it,
and the finding. One answer for figures and pages; owns no drawing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Literal, NamedTuple, get_args

import numpy as np

from bench.analysis.pareto import front
from bench.analysis.static_curve import Curve, corners_of, curve_through
from bench.config import ladder_of
from bench.errors import UnknownNameError
from bench.plain_text import counted
from bench.records.published import PublishedPoint, canonical_name
from bench.report.data.budgets import TrainingBudget, footnotes
from bench.report.data.row import NOT_APPLICABLE, Row, Timing, runtimes_of
from bench.report.data.study import SeedGroup, group_seeds, without_restated

X = Literal["nflops", "macs", "latency_ms"]
XS: tuple[str, ...] = get_args(X)

MOST_IN_FULL = 80
"""More networks than this are a crowd: with bars and a name each, nothing could be read."""

_FAR_BELOW = 0.03
_NEAR, _MOSTLY, _LEAST_OF_COSTS = 0.05, 0.6, 1 / 3
"""Where this share of all networks is within 5 points of the best, and their costs span this share
of all costs, the view ends below them."""
_ROOM, _MOST_NAMED = 0.08, 6


@dataclass(frozen=True, eq=False)
class Placed:
    """A group with its cost on the axis (a ratio, millions of MACs, or milliseconds)."""

    group: SeedGroup
    cost: float

    @property
    def backbone(self) -> str:
        return self.group.backbone

    @property
    def method(self) -> str:
        return self.group.first.method

    @cached_property
    def budget(self) -> TrainingBudget:
        return self.group.budget

    @cached_property
    def accuracy(self) -> float:
        return self.group.accuracy

    @property
    def by_accuracy(self) -> tuple[float, float]:
        """For sorting: the most accurate last, of equals the cheapest."""
        return self.accuracy, -self.cost

    @cached_property
    def bar(self) -> tuple[float, float]:
        """The ends of the 95 % interval; where there is none, the accuracy twice."""
        low, high = self.group.accuracy_bounds or (self.accuracy, self.accuracy)
        return low, high


class PlacedPublished(NamedTuple):
    """A published point with its cost on the axis."""

    point: PublishedPoint
    cost: float
    accuracy: float


class View(NamedTuple):
    """The ends of both axes: costs, and accuracies in percent."""

    costs: tuple[float, float]
    heights: tuple[float, float]


@dataclass(frozen=True, eq=False)
class ParetoData:
    """All that a Pareto plot shows of the `rows` of one data set.

    `reference` is the largest backbone; with x = nflops every cost is relative to its dense MACs.
    `runtime` is the one whose times are shown. `left_out` says in words what is not drawn.
    """

    x: str
    rows: tuple[Row, ...]
    runtime: str
    reference: str
    placed: tuple[Placed, ...]
    published: tuple[PlacedPublished, ...]
    left_out: tuple[str, ...]

    @property
    def dataset(self) -> str:
        return self.rows[0].dataset if self.rows else ""

    @property
    def synthetic(self) -> bool:
        return any(row.synthetic for row in self.rows)

    @cached_property
    def statics(self) -> list[Placed]:
        """The dense networks."""
        return [placed for placed in self.placed if placed.group.dense]

    @cached_property
    def best_dense(self) -> dict[str, Placed]:
        """The most accurate dense network of each backbone."""
        by_accuracy = sorted(self.statics, key=attrgetter("by_accuracy"))
        return {placed.backbone: placed for placed in by_accuracy}

    @property
    def dense(self) -> Placed | None:
        """The best dense network of the reference backbone, if one was run."""
        return self.best_dense.get(self.reference)

    @cached_property
    def view(self) -> View | None:
        """The part that is shown, so that a few bad networks do not flatten the rest; None: all."""
        best = max((placed.accuracy for placed in self.placed), default=0.0)
        near = [p for p in self.placed if p.accuracy >= best - _NEAR]
        if not _MOSTLY * len(self.placed) <= len(near) < len(self.placed):
            return None
        spans = [np.ptp([placed.cost for placed in some]) for some in (near, self.placed)]
        if spans[0] < _LEAST_OF_COSTS * spans[1]:
            return None  # those far below are the ones that save anything
        heights = [*(end for p in near for end in p.bar), *(f.accuracy for f in self.published)]
        low, high = min(end for p in near for end in p.bar), max(heights)
        costs = [*(p.cost for p in near), *(foreign.cost for foreign in self.published)]
        room_x, room_y = _ROOM * (max(costs) - min(costs)), _ROOM * (high - low)
        return View(
            (min(costs) - room_x, max(costs) + room_x),
            (100 * (low - room_y), 100 * (high + room_y)),
        )

    @property
    def below_view(self) -> list[Placed]:
        """The networks that the view does not reach, best first."""
        low = self.view.heights[0] if self.view else 0.0
        hidden = [placed for placed in self.placed if 100 * placed.accuracy < low]
        return sorted(hidden, key=attrgetter("by_accuracy"), reverse=True)

    @cached_property
    def front(self) -> list[Placed]:
        """The Pareto front of our own runs, by rising cost."""
        return [self.placed[i] for i in front([(p.cost, p.accuracy) for p in self.placed])]

    @property
    def static_curves(self) -> list[Curve]:
        """The lines through the best dense networks of each budget and ladder."""
        found = dict.fromkeys(tuple(self._statics_of(*kind)) for kind in _by_kind(self.statics))
        return [_static_curve(alike) for alike in found if len(alike) > 1]

    def _statics_of(self, ladder: str, budget: TrainingBudget) -> list[Placed]:
        """Return the dense networks of a ladder that were trained alike, or with the budget that is
        nearest to that."""
        same = [placed for placed in self.statics if ladder_of(placed.backbone) == ladder]
        nearest = budget.nearest([placed.budget for placed in same])
        return [placed for placed in same if nearest.matches(placed.budget)]

    @property
    def finding(self) -> str:
        """How many dynamic networks lie above and below the static curve of their budget, by their
        bars: "beyond" where no static network has their cost, nor is better for less. A report
        quotes the verdicts instead, which pair images and correct for many comparisons."""
        dynamic = [p for p in self.placed if not (p.group.dense or p.group.control)]
        methods = counted(len({p.method for p in dynamic}), "method")
        networks = f"{counted(len(dynamic), 'network')} of {methods}"
        if not self.placed:
            return "No finished runs to compare yet"
        if not dynamic or not self.statics:
            return f"{networks} and {counted(len(self.statics), 'static one')}: nothing to compare"
        found: Counter[str] = Counter()
        for kind, members in _by_kind(dynamic).items():
            found.update(_sides(members, self._statics_of(*kind)))
        beyond = f"; {found['beyond']} without a static one of that cost" if found["beyond"] else ""
        return (
            f"{networks}: {found['above'] or 'none'} above the static curve, {found['below']} "
            f"below, {found['level']} level with it (95 % intervals){beyond}"
        )

    @property
    def crowded(self) -> bool:
        """Whether only `in_full` gets bars and a name, and the rest a pale mark."""
        return len(self.placed) > MOST_IN_FULL

    @cached_property
    def in_full(self) -> list[Placed]:
        """All our networks; in a crowd, the front and the best dense one of each backbone."""
        chosen = {*self.front, *self.best_dense.values()}
        return [placed for placed in self.placed if placed in chosen or not self.crowded]

    @cached_property
    def curves(self) -> list[list[Placed]]:
        """Our networks that are several operating points of one training, by rising cost."""
        found: dict[str, list[Placed]] = defaultdict(list)
        for placed in sorted(self.placed, key=lambda placed: (placed.cost, -placed.accuracy)):
            if placed.group.first.point:
                found[placed.group.first.run].append(placed)
        return [points for points in found.values() if len(points) > 1]

    @property
    def cells(self) -> list[Timing]:
        """The latency cells that the times come from."""
        return [cell for p in self.placed for cell in p.group.timings(1, self.runtime)]

    @property
    def x_label(self) -> str:
        if self.x == "macs":
            return "cost per image, millions of MACs (policy included)"
        if self.x == "nflops":
            dense = f"dense {self.reference}".strip()
            return f"MACs per image relative to {dense} (policy included)"
        devices = sorted({cell.device for cell in self.cells})
        where = "; ".join([self.runtime, *devices]) if devices else "not measured"
        return f"latency at batch 1, ms per image ({where})"

    def notes(self) -> Iterator[str]:
        """Yield what must stand below the plot, bars first."""
        yield from _bars([placed.group for placed in self.in_full])
        if self.crowded:
            few = f"{len(self.in_full)} of {len(self.placed):,} networks in full"
            yield f"{few}: the front and the best dense one of each backbone"
        yield from footnotes([row for placed in self.placed for row in placed.group.rows])
        if hidden := self.below_view:
            named = [f"{p.group.label} ({100 * p.accuracy:.1f} %)" for p in hidden[:_MOST_NAMED]]
            if len(hidden) > _MOST_NAMED:
                named.append(f"{len(hidden) - _MOST_NAMED} more")
            yield f"below the view: {', '.join(named)}"
        if self.x == "latency_ms":
            yield from self._measurements()
        if self.published:
            yield "published: as their sources print them, counted and trained otherwise"
        if self.left_out:
            yield f"left out: {', '.join(self.left_out)}"

    def _measurements(self) -> Iterator[str]:
        """Say where times are not of one measurement, and which runtimes are not shown."""
        if len({cell.device for cell in self.cells}) > 1:
            yield "latencies come from different machines: compare within one only"
        took_ms: dict[str, set[float]] = defaultdict(set)
        for placed in self.placed:
            cells = placed.group.timings(1, self.runtime)
            took_ms[placed.backbone] |= {c.dense_ms for c in cells if c.dense_ms is not None}
        backbone, known = max(took_ms.items(), key=lambda one: len(one[1]), default=("", set()))
        if len(known) > 1:
            yield (
                f"timed in {len(known)} measurements, in which the dense {backbone} took "
                f"{min(known):.2f} to {max(known):.2f} ms: where that differs, compare speed-ups"
            )
        if others := [name for name in runtimes_of(self.rows) if name != self.runtime]:
            yield f"also timed in {', '.join(others)}: bench report"


def pareto_data(
    rows: Sequence[Row],
    *,
    x: str,
    runtime: str = "",
    published: Sequence[PublishedPoint] = (),
) -> ParetoData:
    """Place the measured rows of one data set, and published points, on the cost axis `x`; times
    are those of one runtime, by default the first in which any row was timed.

    Networks of others, and controls, far below ours would press them flat: they are left out.

    Raises:
        UnknownNameError: there is no such axis.
    """
    if x not in XS:
        raise UnknownNameError("cost axis", x, XS)
    groups = without_restated(group_seeds(rows))
    largest = max((g.first for g in groups), key=attrgetter("dense_macs"), default=None)
    unit = largest.dense_macs if largest and x == "nflops" else 1e6
    runtime = runtime or next(iter(runtimes_of(rows)), "")
    costs = [(group, _cost(group, x, unit, runtime)) for group in groups]
    found = [Placed(group, cost) for group, cost in costs if cost is not None]
    floor = min((p.accuracy for p in found if not p.group.control), default=0.0) - _FAR_BELOW
    placed = [p for p in found if not p.group.control or p.accuracy >= floor]
    theirs = [
        PlacedPublished(point, cost, point.accuracy)
        for point in published
        if largest is not None and point.accuracy is not None
        if (cost := _published_cost(point, x, unit, largest)) is not None
    ]
    floor = min((p.accuracy for p in placed), default=0.0) - _FAR_BELOW
    shown = tuple(foreign for foreign in theirs if foreign.accuracy >= floor)
    failed = sum(row.status not in ("finished", NOT_APPLICABLE) for row in rows)
    left_out = (
        (len(groups) - len(found), "network", "without measured latency"),
        (failed, "run", "that failed"),
        (len(found) - len(placed), "control", "far below"),
        (len(published) - len(theirs), "published point", "without a place on this axis"),
        (len(theirs) - len(shown), "published point", "far below"),
    )
    return ParetoData(
        x,
        tuple(rows),
        runtime,
        "" if largest is None else largest.backbone,
        tuple(placed),
        shown,
        tuple(f"{counted(n, noun)} {why}" for n, noun, why in left_out if n),
    )


def _cost(group: SeedGroup, x: str, unit: float, runtime: str) -> float | None:
    if x == "latency_ms":
        return group.mean_time("latency_ms", 1, runtime)
    macs = group.mean_of("macs")
    return None if macs is None or not unit else macs / unit


def _published_cost(point: PublishedPoint, x: str, unit: float, largest: Row) -> float | None:
    """Return the place of a published point on the axis, or None if it has none."""
    if x == "latency_ms" or not unit:
        return None
    same = canonical_name(point.backbone) == canonical_name(largest.backbone)
    if same and point.nflops is not None and (x == "nflops" or point.macs is None):
        return point.nflops * largest.dense_macs / unit
    return None if point.macs is None else point.macs / unit


def _by_kind(members: Iterable[Placed]) -> dict[tuple[str, TrainingBudget], list[Placed]]:
    found: dict[tuple[str, TrainingBudget], list[Placed]] = defaultdict(list)
    for placed in members:
        found[ladder_of(placed.backbone), placed.budget].append(placed)
    return found


def _sides(members: Sequence[Placed], statics: Sequence[Placed]) -> Iterator[str]:
    """Yield on which side of the curve through `statics` each of `members` lies by its bar."""
    curve = _static_curve(statics) if statics else None
    best = max((placed.accuracy for placed in statics), default=0.0)
    for one in members:
        low, high = one.bar
        if curve is None:
            yield "beyond"
        elif curve.covers(one.cost):
            there = curve.at(one.cost)
            yield "above" if low > there else "below" if high < there else "level"
        else:
            dominated = one.cost > curve.range.high and high < best
            yield "below" if dominated else "beyond"


def _static_curve(dense: Sequence[Placed]) -> Curve:
    cost_p = np.array([placed.cost for placed in dense])
    accuracy_p = np.array([placed.accuracy for placed in dense])
    return curve_through(corners_of(cost_p, accuracy_p), cost_p=cost_p, accuracy_p=accuracy_p)


def _bars(groups: Sequence[SeedGroup]) -> Iterator[str]:
    single = [g for g in groups if g.seeds == 1 and g.accuracy_bounds is not None]
    parts = []
    if single:
        images = " or ".join(f"{n:,}" for n in sorted({g.first.test_images for g in single}))
        parts.append(f"binomial from {images} test images where there is one seed (n=1)")
    if any(group.seeds > 1 for group in groups):
        parts.append("t-interval of the mean over seeds where n>1")
    if parts:
        yield f"bars: 95 %, {', '.join(parts)}"
