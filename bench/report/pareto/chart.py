"""The Pareto plot as a chart: our networks, what they have to beat, and what papers print.

Owns what of the data is drawn, how, and named; where things lie is data.py's business.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from bench.records.published import canonical_name
from bench.report.data.budgets import spent
from bench.report.data.study import SeedGroup
from bench.report.figures.chart import (
    DENSE,
    GREY,
    Chart,
    Label,
    Legend,
    Line,
    Marks,
    Panel,
    Series,
    Style,
    greyed,
    styles,
)
from bench.report.pareto.data import ParetoData, Placed, PlacedPublished
from bench.report.tables.cells import number, percent_with_sd
from bench.report.tables.results import published_cells


def pareto_chart(data: ParetoData, *, title: str = "") -> Chart:
    """Return accuracy against cost; `title` replaces the finding of the data."""
    # Of all rows, drawn or not, so that a method keeps its colour on every axis.
    known = styles(
        {row.method for row in data.rows if not row.dense and not row.control},
        controls={row.method for row in data.rows if row.control},
        theirs=[foreign.point.method for foreign in data.published],
    )
    lines, ours = _lines(data, known), _ours(data, known)
    papers = [_paper(foreign, known) for foreign in data.published]
    panel = Panel(
        series=(*lines, *papers, *ours),
        x_label=data.x_label,
        y_label="test accuracy, %",
        y_limits=data.heights,
        labels=_labels(data),
        message="" if data.placed else "no finished runs",
    )
    legends = [Legend("our runs", _names([*ours, *lines]))]
    if papers:
        legends.append(Legend("published (other recipes)", _names(papers)))
    return Chart(
        title=title or data.finding,
        panels=(panel,),
        notes=tuple(data.notes()),
        synthetic=data.synthetic,
        legends=tuple(legends),
    )


def _names(series: Iterable[Series]) -> tuple[str, ...]:
    named = (one.name for one in series if isinstance(one, Marks | Line) and one.name)
    return tuple(dict.fromkeys(named))


def _lines(data: ParetoData, known: Mapping[str, Style]) -> list[Series]:
    """Return the front, the dense network, what static networks reach at each cost, and what joins
    the operating points of one training, between which lie all thresholds not tried."""
    found: list[Series] = []
    if len(data.front) > 1:
        found.append(Line(*_places(data.front), GREY, name="Pareto front of our runs", steps=True))
    if (dense := data.best_dense.get(data.reference)) is not None:
        costs = [placed.cost for placed in data.placed]
        room = 0.08 * (max(costs) - min(costs))
        ends, heights = (min(costs) - room, max(costs) + room), (100 * dense.accuracy,) * 2
        name = f"dense {data.reference}"
        found.append(Line(ends, heights, DENSE.colour, name, 0.9, "dotted"))
    for curve in data.static_curves:
        places = tuple(curve.cost_k.tolist()), tuple((100 * curve.accuracy_k).tolist())
        found.append(Line(*places, DENSE.colour, "static curve", 1.6, opacity=0.8))
    for points in () if data.crowded else data.curves:
        colour = _style(points[0], known).colour
        found.append(Line(*_places(points), colour, width=1.0, opacity=0.7))
    return found


def _ours(data: ParetoData, known: Mapping[str, Style]) -> list[Marks]:
    """Return one entry per legend name: a crowd pale and small, the rest with bars."""
    found: dict[tuple[bool, str], list[Placed]] = defaultdict(list)
    in_full = set(data.in_full)
    for placed in data.placed:
        name = "dense networks" if placed.group.dense else placed.method
        found[placed in in_full, name].append(placed)
    marks = []
    for (full, name), members in sorted(found.items(), key=lambda one: one[0][0]):
        more: dict[str, Any] = {"size": 4, "opacity": 0.25}
        if full:
            more = {"tips": tuple(_tip(placed.group) for placed in members)}
            for side, end in enumerate(("low", "high")):
                more[end] = tuple(100 * placed.bar[side] for placed in members)
        marks.append(Marks(*_places(members), _style(members[0], known), name, **more))
    return marks


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
        Style(greyed(style.colour), style.mark),
        name=name,
        tips=("\n".join([name, *(f"{title}: {text}" for title, text in cells if text)]),),
        filled=False,
        size=7,
    )


def _tip(group: SeedGroup) -> str:
    """Return what is said of a network where a reader points at it: the rest is in the tables."""
    first = group.first
    pairs = {
        "backbone": first.backbone,
        "accuracy": f"{percent_with_sd(group.accuracy, group.accuracy_sd)} %",
        "nFLOPs": f"{number(group.mean_of('nflops'), '.3f')}, policy included",
        "MACs": f"{number(group.mean_of('macs'), scale=1e-6)} M per image",
    }
    for runtime in first.runtimes:
        took_ms, ratio = (group.mean_time(k, 1, runtime) for k in ("latency_ms", "speedup"))
        if took_ms is not None:
            speed = "" if ratio is None else f", {ratio:.2f}x"
            pairs[f"batch 1, {runtime}"] = f"{took_ms:.2f} ms{speed}"
    pairs["recipe"] = f"{first.recipe}, {first.train_epochs} epochs"
    pairs["training"] = f"{spent(first)} dense epochs in all"
    pairs["seeds"] = ", ".join(str(row.seed) for row in group.runs)
    return "\n".join([group.label, *(f"{name}: {value}" for name, value in pairs.items() if value)])


def _labels(data: ParetoData) -> tuple[Label, ...]:
    """Return the names of points, those on the front first; some are spoken for by others.

    Controls, because the legend names them and names would cover the plot; all points of a curve
    but its last; all dense networks of a backbone but the most accurate; in a crowd, all of a
    method but its most accurate.
    """
    by_accuracy = sorted(data.in_full, key=attrgetter("by_accuracy"))
    named = [p for p in by_accuracy if not (p.group.dense or p.group.control)]
    if data.crowded:
        named = list({placed.method: placed for placed in named}.values())
    inner = {placed for points in data.curves for placed in points[:-1]}
    shown = {p for p in {*named, *data.best_dense.values()} if p.accuracy >= data.floor} - inner
    runs: dict[str, set[str]] = defaultdict(set)
    for placed in data.placed:
        runs[placed.method].add(placed.group.first.run)
    front = set(data.front)
    return tuple(
        Label(p.cost, 100 * p.accuracy, _label(p, data.reference, len(runs[p.method])))
        for p in sorted(data.in_full, key=lambda placed: placed not in front)
        if p in shown
    )


def _label(placed: Placed, reference: str, runs: int) -> str:
    group, first = placed.group, placed.group.first
    if group.dense:
        return first.backbone
    text = (group.distinguishing or first.variant or first.method) if runs > 1 else first.method
    return text if first.backbone == reference else f"{text} ({first.backbone})"
