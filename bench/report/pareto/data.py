"""Pareto data, accuracy against cost: where a group or a published point lies, and what it shows.

One answer for figures and pages: the cost axis, its label, the network all costs are relative to,
and the Pareto front. Owns no drawing; the sentence that states the finding is finding.py's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Literal, NamedTuple, get_args

import numpy as np

from bench.analysis.pareto import front
from bench.analysis.static_curve import corners_of, curve_through
from bench.config import ladder_of
from bench.errors import ConfigError, UnknownNameError
from bench.records.published import PublishedPoint, canonical_name
from bench.records.record import UNKNOWN_RUNTIME
from bench.report.data.groups import Group, group_seeds, without_restated
from bench.report.data.notes import footnotes
from bench.report.data.row import NOT_APPLICABLE, Row, runtimes_of

X = Literal["nflops", "macs", "latency_ms"]
XS: tuple[str, ...] = get_args(X)
_BELOW_OURS = 0.03
_ROOM, _MOST_NAMED = 0.08, 6
_NEAR = 0.05
_MOSTLY, _LEAST_OF_COSTS = 0.6, 1 / 3
"""Where this share of all networks is within 5 points of the best, and their costs span this share
of all costs, the view ends below them."""

MOST_IN_FULL = 80
"""More networks than this are a crowd: with bars and a name each, nothing could be read."""


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A group with its cost on the axis (a ratio, millions of MACs, or milliseconds)."""

    group: Group
    cost: float

    @property
    def backbone(self) -> str:
        return self.group.first.backbone

    @property
    def percent(self) -> str:
        return f"{100 * self.group.accuracy:.1f} %"

    @property
    def by_accuracy(self) -> tuple[float, float]:
        """For sorting: the most accurate last, of equals the cheapest."""
        return self.group.accuracy, -self.cost

    @property
    def by_cost(self) -> tuple[float, float]:
        """For sorting: the cheapest first, of equals the most accurate."""
        return self.cost, -self.group.accuracy


@dataclass(frozen=True, slots=True)
class Foreign:
    """A published point with its cost on the axis."""

    point: PublishedPoint
    cost: float
    accuracy: float


class View(NamedTuple):
    """The ends of both axes: costs, and accuracies in percent."""

    costs: tuple[float, float]
    heights: tuple[float, float]


@dataclass(frozen=True, slots=True)
class ParetoData:
    """All that a Pareto plot shows of one data set.

    `reference` is the largest backbone; with x = nflops every cost is relative to its dense MACs.
    `methods` and `controls` are those of all rows, drawn or not, so that a method keeps its colour
    on every axis. `runtime` is the one whose times are shown, of several that were measured.
    """

    x: str
    dataset: str
    synthetic: bool
    runtime: str
    other_runtimes: tuple[str, ...]
    reference: str
    reference_macs: float
    placed: tuple[Placed, ...]
    methods: tuple[str, ...]
    controls: tuple[str, ...]
    left_out: int
    failed: int
    published: tuple[Foreign, ...] = ()
    published_below: int = 0
    published_elsewhere: int = 0
    controls_below: int = 0

    @property
    def dense(self) -> Placed | None:
        """The best dense network of the reference backbone, if one was run."""
        mine = [p for p in self.placed if p.group.dense and p.backbone == self.reference]
        return max(mine, key=attrgetter("by_accuracy"), default=None)

    @property
    def view(self) -> View | None:
        """The part that is shown, so that a few bad networks do not flatten the rest; None: all."""
        best = max((placed.group.accuracy for placed in self.placed), default=0.0)
        near = [p for p in self.placed if p.group.accuracy >= best - _NEAR]
        if not _MOSTLY * len(self.placed) <= len(near) < len(self.placed):
            return None
        if _span(near) < _LEAST_OF_COSTS * _span(self.placed):
            return None  # those far below are the ones that save anything
        ends = [p.group.accuracy_bounds or (p.group.accuracy,) * 2 for p in near]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        costs = [*(p.cost for p in near), *(foreign.cost for foreign in self.published)]
        high = max([high, *(foreign.accuracy for foreign in self.published)])
        room_x, room_y = _ROOM * (max(costs) - min(costs)), _ROOM * (high - low)
        return View(
            (min(costs) - room_x, max(costs) + room_x),
            (100 * (low - room_y), 100 * (high + room_y)),
        )

    @property
    def below_view(self) -> list[Placed]:
        """The networks that the view does not reach, best first."""
        if self.view is None:
            return []
        lowest = self.view.heights[0] / 100
        hidden = [placed for placed in self.placed if placed.group.accuracy < lowest]
        return sorted(hidden, key=attrgetter("by_accuracy"), reverse=True)

    @property
    def front(self) -> list[Placed]:
        """The Pareto front of our own runs, by rising cost."""
        return [self.placed[i] for i in front([(p.cost, p.group.accuracy) for p in self.placed])]

    @property
    def static_curves(self) -> list[list[tuple[float, float]]]:
        """The line through the best dense networks of each budget and ladder, (cost, accuracy), by
        cost."""
        budgets = {p: p.group.budget for p in self.placed if p.group.dense}
        lines = {}
        for one, budget in budgets.items():
            alike = [
                placed
                for placed, other in budgets.items()
                if budget.matches(other) and ladder_of(placed.backbone) == ladder_of(one.backbone)
            ]
            if len(alike) > 1:
                lines[tuple(map(id, alike))] = _static_line(alike)
        return list(lines.values())

    @property
    def crowded(self) -> bool:
        """Whether only `in_full` gets bars and a name, and the rest a pale mark."""
        return len(self.placed) > MOST_IN_FULL

    @property
    def in_full(self) -> list[Placed]:
        """All our networks; in a crowd, the front and the best dense one of each backbone."""
        if not self.crowded:
            return list(self.placed)
        best: dict[str, Placed] = {}
        for placed in sorted(self.placed, key=attrgetter("by_accuracy")):
            if placed.group.dense:
                best[placed.backbone] = placed
        chosen = {*self.front, *best.values()}
        return [placed for placed in self.placed if placed in chosen]

    @property
    def curves(self) -> list[list[Placed]]:
        """Our networks that are several operating points of one training, by rising cost."""
        found: dict[str, list[Placed]] = {}
        for placed in sorted(self.placed, key=attrgetter("by_cost")):
            if placed.group.first.point:
                found.setdefault(placed.group.first.run, []).append(placed)
        return [points for points in found.values() if len(points) > 1]

    @property
    def x_label(self) -> str:
        if self.x == "macs":
            return "cost per image, millions of MACs (policy included)"
        if self.x == "nflops":
            dense = f"dense {self.reference}".strip()
            return f"MACs per image relative to {dense} (policy included)"
        devices = {cell.device for p in self.placed for cell in p.group.timings(1, self.runtime)}
        where = [*([] if self.runtime == UNKNOWN_RUNTIME else [self.runtime]), *sorted(devices)]
        return f"latency at batch 1, ms per image ({'; '.join(where) or 'not measured'})"

    @property
    def machines(self) -> int:
        """How many machines and thread settings the times come from."""
        return len({c.device for p in self.placed for c in p.group.timings(1, self.runtime)})

    def cost_in_words(self, placed: Placed) -> str:
        if self.x == "nflops":
            return f"at {placed.cost:.2f} of the MACs"
        if self.x == "macs":
            return f"at {placed.cost:.1f} M MACs"
        return f"in {placed.cost:.2f} ms"

    def notes(self) -> list[str]:
        """Return what must stand below the plot, bars first."""
        in_full = [placed.group for placed in self.in_full]
        found = [_bars(in_full), self._crowd()]
        groups = [placed.group for placed in self.placed]
        found += footnotes(groups, guessed="in part reconstructed, see the table")
        found.append(_below(self.below_view))
        if self.x == "latency_ms" and self.machines > 1:
            found.append("latencies come from different machines: compare within one only")
        elif self.x == "latency_ms":
            found.append(self._measurements())
        if self.x == "latency_ms" and self.other_runtimes:
            found.append(f"also timed in {', '.join(self.other_runtimes)}: bench report")
        if self.left_out:
            found.append(f"{_counted(self.left_out, 'network')} without measured latency, left out")
        if self.failed:
            found.append(f"{_counted(self.failed, 'run')} failed, left out")
        if self.published:
            found.append("published: as their sources print them, counted and trained otherwise")
        if self.controls_below:
            found.append(f"{_counted(self.controls_below, 'control')} far below, left out")
        if self.published_elsewhere:
            count = _counted(self.published_elsewhere, "published point")
            found.append(f"{count} without a place on this axis, left out")
        if self.published_below:
            found.append(f"{_counted(self.published_below, 'published point')} far below, left out")
        return [note for note in found if note]

    def _measurements(self) -> str:
        """Say how far apart the clocks of several measurements ran, by a dense network of each."""
        took_ms: dict[str, set[float]] = defaultdict(set)
        for placed in self.placed:
            times = {c.dense_ms for c in placed.group.timings(1, self.runtime)} - {None}
            took_ms[placed.backbone] |= {ms for ms in times if ms is not None}
        backbone, known = max(
            took_ms.items(), key=lambda item: len(item[1]), default=("", set[float]())
        )
        if len(known) < 2:
            return ""
        return (
            f"timed in {len(known)} measurements, in which the dense {backbone} took"
            f" {min(known):.2f} to {max(known):.2f} ms: where that differs, compare speed-ups"
        )

    def _crowd(self) -> str:
        if not self.crowded:
            return ""
        few = f"{len(self.in_full)} of {len(self.placed):,} networks in full"
        return f"{few}: the front and the best dense one of each backbone; the others pale"


def pareto_data(
    rows: Sequence[Row],
    *,
    x: str,
    runtime: str = "",
    published: Sequence[PublishedPoint] = (),
) -> ParetoData:
    """Place the measured rows of one data set, and published points, on the cost axis `x`; times
    are those of one runtime, by default the first in which any row was timed.

    Raises:
        UnknownNameError: there is no such axis.
        ConfigError: the rows belong to several data sets, whose accuracies have no common axis.
    """
    if x not in XS:
        raise UnknownNameError("cost axis", x, XS)
    names = sorted({row.dataset for row in rows})
    if len(names) > 1:
        raise ConfigError(
            f"One plot shows one data set, these runs have {len(names)}: {', '.join(names)}.",
            hint=f"Choose one, e.g. --dataset {names[0]}.",
        )
    groups = without_restated(group_seeds(rows))
    largest = max(groups, key=lambda group: group.first.dense_macs, default=None)
    reference_macs = 0.0 if largest is None else float(largest.first.dense_macs)
    timed = runtimes_of(rows)
    runtime = runtime or next(iter(timed), "")
    costs = ((group, _cost(group, x, reference_macs, runtime)) for group in groups)
    found = [Placed(group, cost) for group, cost in costs if cost is not None]
    placed = _without_far_controls(found)
    data = ParetoData(
        x=x,
        dataset=names[0] if names else "",
        synthetic=any(row.synthetic for row in rows),
        runtime=runtime,
        other_runtimes=tuple(name for name in timed if name != runtime),
        reference="" if largest is None else largest.first.backbone,
        reference_macs=reference_macs,
        placed=tuple(placed),
        methods=_names(row for row in rows if not row.dense and not row.control),
        controls=_names(row for row in rows if row.control),
        left_out=len(groups) - len(found),
        controls_below=len(found) - len(placed),
        failed=sum(row.status not in ("finished", NOT_APPLICABLE) for row in rows),
    )
    return _with_published(data, published)


def _without_far_controls(found: Sequence[Placed]) -> list[Placed]:
    """Leave out controls so far below all networks under test that they would press them flat."""
    under_test = [p.group.accuracy for p in found if not p.group.control]
    floor = min(under_test, default=0.0) - _BELOW_OURS
    return [p for p in found if not p.group.control or p.group.accuracy >= floor]


def _names(rows: Iterable[Row]) -> tuple[str, ...]:
    return tuple(sorted({row.method for row in rows}))


def _with_published(data: ParetoData, published: Sequence[PublishedPoint]) -> ParetoData:
    found = [
        Foreign(point, cost, point.accuracy)
        for point in published
        if point.accuracy is not None and (cost := _published_cost(data, point)) is not None
    ]
    # A collapsed network of somebody else would press all our points into one line.
    floor = min((p.group.accuracy for p in data.placed), default=0.0) - _BELOW_OURS
    shown = tuple(foreign for foreign in found if foreign.accuracy >= floor)
    return replace(
        data,
        published=shown,
        published_below=len(found) - len(shown),
        published_elsewhere=len(published) - len(found),
    )


def _published_cost(data: ParetoData, point: PublishedPoint) -> float | None:
    """Return the place of a published point on the axis, or None if it has none."""
    if data.x == "latency_ms" or not data.reference_macs:
        return None
    same = canonical_name(point.backbone) == canonical_name(data.reference)
    ratio = point.nflops if same else None
    if data.x == "nflops" and ratio is not None:
        return ratio
    macs = point.macs
    if macs is None and ratio is not None:
        macs = ratio * data.reference_macs
    if macs is None:
        return None
    return macs / data.reference_macs if data.x == "nflops" else macs / 1e6


def _static_line(dense: Sequence[Placed]) -> list[tuple[float, float]]:
    cost_p = np.array([placed.cost for placed in dense])
    accuracy_p = np.array([placed.group.accuracy for placed in dense])
    curve = curve_through(corners_of(cost_p, accuracy_p), cost_p=cost_p, accuracy_p=accuracy_p)
    return list(zip(curve.cost_k.tolist(), curve.accuracy_k.tolist(), strict=True))


def _cost(group: Group, x: str, reference_macs: float, runtime: str) -> float | None:
    if x == "latency_ms":
        return group.mean_time("latency_ms", 1, runtime)
    macs = group.mean_of("macs")
    if macs is None or not reference_macs:
        return None
    return macs / reference_macs if x == "nflops" else macs / 1e6


def _bars(groups: Sequence[Group]) -> str:
    several = any(group.seeds > 1 for group in groups)
    single = [g for g in groups if g.seeds == 1 and g.accuracy_bounds is not None]
    parts = []
    if single:
        sizes = sorted({group.first.test_images for group in single})
        images = " or ".join(f"{size:,}" for size in sizes)
        parts.append(f"binomial from {images} test images where there is one seed (n=1)")
    if several:
        parts.append("t-interval of the mean over seeds where n>1")
    return f"bars: 95 %, {', '.join(parts)}" if parts else ""


def _below(hidden: Sequence[Placed]) -> str:
    """Name the networks that the view does not reach, the first few of them."""
    named = [f"{placed.group.label} ({placed.percent})" for placed in hidden[:_MOST_NAMED]]
    more = [f"{len(hidden) - _MOST_NAMED} more"] if len(hidden) > _MOST_NAMED else []
    return f"below the view: {', '.join([*named, *more])}" if hidden else ""


def _span(networks: Sequence[Placed]) -> float:
    costs = [placed.cost for placed in networks]
    return max(costs) - min(costs)


def _counted(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"
