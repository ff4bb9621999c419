"""The Pareto plot, accuracy against cost: our networks, what they have to beat, and what papers
print. Owns where a group or a published point lies, what is drawn of it and how, and the finding.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Literal, NamedTuple, get_args

import numpy as np

from bench.analysis.pareto import front
from bench.analysis.static_curve import Curve, corners_of, curve_through
from bench.config import ladder_of
from bench.errors import UnknownNameError
from bench.plain_text import counted, some
from bench.records.published import PublishedPoint, canonical_name
from bench.report.data.budgets import footnotes, spent
from bench.report.data.row import NOT_APPLICABLE, Row, place_in_words, runtimes_of
from bench.report.data.study import SeedGroup, group_seeds, without_restated
from bench.report.figures.chart import DENSE, GREY, Chart, Label, Line, Marks, Panel, Style, styles
from bench.report.tables.cells import number, percent_with_sd
from bench.report.tables.results import published_cells

X = Literal["nflops", "macs", "latency_ms"]
XS: tuple[str, ...] = get_args(X)

MOST_SHOWN = 80
"""Of more networks than this nothing could be read."""

_SHOWN, _MOSTLY = 0.08, 0.6
"""Where this share of the networks is within 8 points of the best, the rest is below the view."""


@dataclass(frozen=True, eq=False)
class Placed:
    """A group with its cost on the axis (a ratio, millions of MACs, or milliseconds)."""

    group: SeedGroup
    cost: float

    @property
    def method(self) -> str:
        return self.group.first.method

    @cached_property
    def accuracy(self) -> float:
        return self.group.accuracy

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


@dataclass(frozen=True, eq=False)
class ParetoData:
    """All that a Pareto plot shows of the `rows` of one data set.

    `reference` is the largest backbone; with x = nflops every cost is relative to its dense MACs.
    `runtime` is the one whose times are shown. `left_out` says in words what has no place.
    """

    x: str
    rows: tuple[Row, ...]
    runtime: str
    reference: str
    placed: tuple[Placed, ...]
    published: tuple[PlacedPublished, ...]
    left_out: tuple[str, ...]

    @property
    def synthetic(self) -> bool:
        return any(row.synthetic for row in self.rows)

    @cached_property
    def best_dense(self) -> dict[str, Placed]:
        """The most accurate dense network of each backbone."""
        by_accuracy = sorted(self.placed, key=lambda one: (one.accuracy, -one.cost))
        return {one.group.backbone: one for one in by_accuracy if one.group.dense}

    @cached_property
    def floor(self) -> float:
        """The lowest accuracy in view, so that a few bad networks do not flatten the rest."""
        own = sorted(p.accuracy for p in self.placed if not p.group.control)
        near = [accuracy for accuracy in own if accuracy >= own[-1] - _SHOWN]
        return min(near if len(near) >= _MOSTLY * len(own) else own, default=0.0)

    @cached_property
    def below_view(self) -> list[str]:
        """What is below the view."""
        theirs = sum(foreign.accuracy < self.floor for foreign in self.published)
        hidden = [placed.group.label for placed in self.placed if placed.accuracy < self.floor]
        return [*hidden, *([counted(theirs, "published point")] if theirs else [])]

    @property
    def lowest(self) -> float | None:
        """Where the axis of accuracies begins, in percent; None: where all are in view."""
        if not self.below_view:
            return None
        return 100 * min(p.bar[0] for p in self.placed if p.accuracy >= self.floor) - 0.5

    @cached_property
    def front(self) -> list[Placed]:
        """The Pareto front of our own runs, by rising cost."""
        return [self.placed[i] for i in front([(p.cost, p.accuracy) for p in self.placed])]

    @property
    def static_curves(self) -> list[Curve]:
        """The lines through the dense networks of each ladder that were trained alike."""
        found: dict[tuple[Placed, ...], None] = {}
        statics = [placed for placed in self.placed if placed.group.dense]
        for one in statics:
            ladder, budget = ladder_of(one.group.backbone), one.group.budget
            same = [p for p in statics if ladder_of(p.group.backbone) == ladder]
            found[tuple(p for p in same if budget.matches(p.group.budget))] = None
        return [_static_curve(alike) for alike in found if len(alike) > 1]

    @property
    def finding(self) -> str:
        """How many dynamic networks are on the Pareto front. A report quotes the verdicts instead,
        which say whether a difference is more than chance."""
        if not self.placed:
            return "No finished runs to compare yet"
        dynamic = [p for p in self.placed if not (p.group.dense or p.group.control)]
        methods = counted(len({placed.method for placed in dynamic}), "method")
        on_front = sum(placed in self.front for placed in dynamic)
        return (
            f"{counted(len(dynamic), 'network')} of {methods}: {on_front or 'none'} on the Pareto "
            f"front of {counted(len(self.placed), 'network')}, controls included"
        )

    @cached_property
    def shown(self) -> list[Placed]:
        """What is drawn: all our networks; of more than MOST_SHOWN the front, the most accurate one
        of each method, and the most accurate dense one of each backbone."""
        if len(self.placed) <= MOST_SHOWN:
            return list(self.placed)
        of_methods = {p.method: p for p in sorted(self.placed, key=attrgetter("accuracy"))}
        chosen = {*self.front, *self.best_dense.values(), *of_methods.values()}
        return [placed for placed in self.placed if placed in chosen]

    @cached_property
    def curves(self) -> list[list[Placed]]:
        """Our networks that are several operating points of one training, by rising cost."""
        found: dict[str, list[Placed]] = defaultdict(list)
        for placed in sorted(self.shown, key=lambda placed: (placed.cost, -placed.accuracy)):
            if placed.group.first.point:
                found[placed.group.first.run].append(placed)
        return [points for points in found.values() if len(points) > 1]

    @property
    def devices(self) -> list[str]:
        """Where the times were measured."""
        cells = (cell for of in self.placed for cell in of.group.timings(1, self.runtime))
        return sorted(set(map(place_in_words, cells)))

    @property
    def x_label(self) -> str:
        if self.x == "macs":
            return "cost per image, millions of MACs (policy included)"
        if self.x == "nflops":
            return f"MACs per image relative to dense {self.reference} (policy included)"
        where = "; ".join([self.runtime, *self.devices]) if self.devices else "not measured"
        return f"latency at batch 1, ms per image ({where})"

    def notes(self) -> Iterator[str]:
        """Yield what must stand below the plot, bars first."""
        if counts := sorted({placed.group.first.test_images for placed in self.placed}):
            images = f"{' or '.join(f'{count:,}' for count in counts)} test images"
            yield f"bars: 95 %, t-interval of the mean over seeds; with one seed, of {images}"
        if len(self.shown) < len(self.placed):
            few = f"{len(self.shown)} of {len(self.placed):,} networks shown"
            yield f"{few}: the front, and the most accurate of each method and backbone"
        yield from footnotes([row for placed in self.placed for row in placed.group.rows])
        if self.below_view:
            yield f"below the view: {some(self.below_view)}"
        if self.x == "latency_ms":
            yield "times of different rounds are not paired: compare speed-ups"
        if len(self.devices) > 1:
            yield "latencies come from different machines: compare within one only"
        if self.published:
            yield "published: as their sources print them, counted and trained otherwise"
        if self.left_out:
            yield f"left out: {', '.join(self.left_out)}"


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
    """
    if x not in XS:
        raise UnknownNameError("cost axis", x, XS)
    groups = without_restated(group_seeds(rows))
    largest = max((g.first for g in groups), key=attrgetter("dense_macs"), default=None)
    unit = largest.dense_macs if largest and x == "nflops" else 1e6
    runtime = runtime or next(iter(runtimes_of(rows)), "")
    costs = [(group, _cost(group, x, unit, runtime)) for group in groups]
    placed = [Placed(group, cost) for group, cost in costs if cost is not None]
    theirs = [
        PlacedPublished(point, cost, point.accuracy)
        for point in published
        if largest is not None and point.accuracy is not None
        if (cost := _published_cost(point, x, unit, largest)) is not None
    ]
    failed = sum(row.status not in ("finished", NOT_APPLICABLE) for row in rows)
    left_out = (
        (len(groups) - len(placed), "network", "without measured latency"),
        (failed, "run", "that failed"),
        (len(published) - len(theirs), "published point", "without a place on this axis"),
    )
    return ParetoData(
        x,
        tuple(rows),
        runtime,
        "" if largest is None else largest.backbone,
        tuple(placed),
        tuple(theirs),
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


def _static_curve(dense: Sequence[Placed]) -> Curve:
    cost_p, accuracy_p = (np.array([getattr(p, of) for p in dense]) for of in ("cost", "accuracy"))
    return curve_through(corners_of(cost_p, accuracy_p), cost_p=cost_p, accuracy_p=accuracy_p)


def pareto_chart(data: ParetoData, *, title: str = "") -> Chart:
    """Return accuracy against cost; `title` replaces the finding of the data."""
    # Of all rows, drawn or not, so that a method keeps its colour on every axis.
    known = styles(
        {row.method for row in data.rows if not row.dense and not row.control},
        controls={row.method for row in data.rows if row.control},
        theirs=[foreign.point.method for foreign in data.published],
    )
    papers = (_paper(foreign, known) for foreign in data.published)
    panel = Panel(
        series=(*_lines(data, known), *papers, *_ours(data, known)),
        x_label=data.x_label,
        y_label="test accuracy, %",
        y_limits=(data.lowest, None),
        labels=_labels(data),
        message="" if data.placed else "no finished runs",
    )
    return Chart(
        title=title or data.finding,
        panels=(panel,),
        notes=tuple(data.notes()),
        synthetic=data.synthetic,
    )


def _lines(data: ParetoData, known: Mapping[str, Style]) -> list[Line]:
    """Return the front, what static networks reach at each cost, and what joins the operating
    points of one training, between which lie all thresholds not tried."""
    found: list[Line] = []
    if len(data.front) > 1:
        found.append(Line(*_places(data.front), GREY, name="Pareto front of our runs", steps=True))
    for curve in data.static_curves:
        places = tuple(curve.cost_k.tolist()), tuple((100 * curve.accuracy_k).tolist())
        found.append(Line(*places, DENSE.colour, "static curve", opacity=0.8))
    for points in data.curves:
        found.append(Line(*_places(points), _style(points[0], known).colour, opacity=0.7))
    return found


def _ours(data: ParetoData, known: Mapping[str, Style]) -> Iterator[Marks]:
    """Yield the marks of each name in the legend, with bars."""
    found: dict[str, list[Placed]] = defaultdict(list)
    for placed in data.shown:
        found["dense networks" if placed.group.dense else placed.method].append(placed)
    for name, members in found.items():
        tips = tuple(_tip(placed.group) for placed in members)
        low, high = (tuple(100 * placed.bar[side] for placed in members) for side in (0, 1))
        yield Marks(*_places(members), _style(members[0], known), name, low, high, tips)


def _places(members: Sequence[Placed]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    heights = tuple(100 * placed.accuracy for placed in members)
    return tuple(placed.cost for placed in members), heights


def _style(placed: Placed, known: Mapping[str, Style]) -> Style:
    return DENSE if placed.group.dense else known[canonical_name(placed.method)]


def _paper(foreign: PlacedPublished, known: Mapping[str, Style]) -> Marks:
    style, name = known[canonical_name(foreign.point.method)], f"published: {foreign.point.method}"
    _, *cells = published_cells(foreign.point).items()
    return Marks(
        (foreign.cost,),
        (100 * foreign.accuracy,),
        style,
        name=name,
        tips=("\n".join([name, *(f"{title}: {text}" for title, text in cells if text)]),),
        filled=False,
        size=7,
    )


def _tip(group: SeedGroup) -> str:
    """Return what is said of a network where a reader points at it: the rest is in the tables."""
    first = group.first
    times = ((name, group.mean_time("latency_ms", 1, name)) for name in first.runtimes)
    lines = (
        group.label,
        f"backbone: {first.backbone}",
        f"accuracy: {percent_with_sd(group.accuracy, group.accuracy_sd)} %",
        f"nFLOPs: {number(group.mean_of('nflops'), '.3f')}, policy included",
        f"MACs: {number(group.mean_of('macs'), scale=1e-6)} M per image",
        *(f"batch 1, {name}: {took_ms:.2f} ms" for name, took_ms in times if took_ms is not None),
        f"training: {first.recipe}, {spent(first)} dense epochs in all",
        f"seeds: {', '.join(str(row.seed) for row in group.runs)}",
    )
    return "\n".join(lines)


def _labels(data: ParetoData) -> tuple[Label, ...]:
    """Return the names of points, those on the front first. Controls have none, because the legend
    names them; of a curve its last point has, of a backbone its most accurate dense network."""
    unnamed = {placed for points in data.curves for placed in points[:-1]}
    runs = Counter(method for method, _ in {(p.method, p.group.first.run) for p in data.placed})
    best = set(data.best_dense.values())
    return tuple(
        Label(p.cost, 100 * p.accuracy, _label(p, data.reference, runs[p.method]))
        for p in sorted(data.shown, key=lambda placed: placed not in data.front)
        if p in best or not (p.group.dense or p.group.control or p in unnamed)
        if p.accuracy >= data.floor
    )


def _label(placed: Placed, reference: str, runs: int) -> str:
    group, first = placed.group, placed.group.first
    if group.dense:
        return first.backbone
    text = (group.distinguishing or first.variant or first.method) if runs > 1 else first.method
    return text if first.backbone == reference else f"{text} ({first.backbone})"
