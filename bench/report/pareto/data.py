"""Pareto data, accuracy against cost: where a group or a published point lies, what is shown of it,
and the finding. One answer for figures and pages; owns no drawing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
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
from bench.report.data.budgets import footnotes
from bench.report.data.row import NOT_APPLICABLE, Row, place_in_words, runtimes_of
from bench.report.data.study import SeedGroup, group_seeds, without_restated

X = Literal["nflops", "macs", "latency_ms"]
XS: tuple[str, ...] = get_args(X)

MOST_IN_FULL = 80
"""More networks than this are a crowd: with bars and a name each, nothing could be read."""

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
    def dataset(self) -> str:
        return self.rows[0].dataset if self.rows else ""

    @property
    def synthetic(self) -> bool:
        return any(row.synthetic for row in self.rows)

    @cached_property
    def best_dense(self) -> dict[str, Placed]:
        """The most accurate dense network of each backbone."""
        by_accuracy = sorted(self.placed, key=attrgetter("by_accuracy"))
        return {one.group.backbone: one for one in by_accuracy if one.group.dense}

    @cached_property
    def floor(self) -> float:
        """The lowest accuracy in view, so that a few bad networks do not flatten the rest."""
        own = sorted(p.accuracy for p in self.placed if not p.group.control)
        near = [accuracy for accuracy in own if accuracy >= own[-1] - _SHOWN]
        mostly = len(near) >= _MOSTLY * len(own)
        return min(near if mostly else own, default=0.0)

    @cached_property
    def below_view(self) -> list[str]:
        """What is below the view."""
        theirs = sum(foreign.accuracy < self.floor for foreign in self.published)
        hidden = [placed.group.label for placed in self.placed if placed.accuracy < self.floor]
        return [*hidden, *([counted(theirs, "published point")] if theirs else [])]

    @property
    def heights(self) -> tuple[float | None, float | None]:
        """The ends of the axis of accuracies, in percent; None: as all are in view."""
        if not self.below_view:
            return None, None
        return 100 * min(p.bar[0] for p in self.placed if p.accuracy >= self.floor) - 0.5, None

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
    def devices(self) -> list[str]:
        """Where the times were measured."""
        cells = (cell for of in self.placed for cell in of.group.timings(1, self.runtime))
        return sorted(set(map(place_in_words, cells)))

    @property
    def x_label(self) -> str:
        if self.x == "macs":
            return "cost per image, millions of MACs (policy included)"
        if self.x == "nflops":
            dense = f"dense {self.reference}".strip()
            return f"MACs per image relative to {dense} (policy included)"
        where = "; ".join([self.runtime, *self.devices]) if self.devices else "not measured"
        return f"latency at batch 1, ms per image ({where})"

    def notes(self) -> Iterator[str]:
        """Yield what must stand below the plot, bars first."""
        if counts := sorted({placed.group.first.test_images for placed in self.placed}):
            images = f"{' or '.join(f'{count:,}' for count in counts)} test images"
            yield f"bars: 95 %, t-interval of the mean over seeds; with one seed, of {images}"
        if self.crowded:
            few = f"{len(self.in_full)} of {len(self.placed):,} networks in full"
            yield f"{few}: the front and the best dense one of each backbone"
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
    cost_p = np.array([placed.cost for placed in dense])
    accuracy_p = np.array([placed.accuracy for placed in dense])
    return curve_through(corners_of(cost_p, accuracy_p), cost_p=cost_p, accuracy_p=accuracy_p)
