"""The Pareto plot as a chart: our networks, what they have to beat, and what papers print.

Owns what of the data is drawn, how, and named; where things lie is data.py's business.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from bench.records.published import canonical_name
from bench.report.data.budgets import spent
from bench.report.data.study import SeedGroup
from bench.report.figures.chart import DENSE, GREY, Chart, Label, Line, Marks, Panel, Style, styles
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
    papers = (_paper(foreign, known) for foreign in data.published)
    panel = Panel(
        series=(*_lines(data, known), *papers, *_ours(data, known)),
        x_label=data.x_label,
        y_label="test accuracy, %",
        y_limits=data.heights,
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
    for points in () if data.crowded else data.curves:
        found.append(Line(*_places(points), _style(points[0], known).colour, opacity=0.7))
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
        for p in sorted(data.in_full, key=lambda placed: placed not in data.front)
        if p in best or not (p.group.dense or p.group.control or p in unnamed)
        if p.accuracy >= data.floor
    )


def _label(placed: Placed, reference: str, runs: int) -> str:
    group, first = placed.group, placed.group.first
    if group.dense:
        return first.backbone
    text = (group.distinguishing or first.variant or first.method) if runs > 1 else first.method
    return text if first.backbone == reference else f"{text} ({first.backbone})"
