"""The Pareto plot as a chart: our networks, what they have to beat, and what papers print.

Owns what of the data is drawn, how, and named; where things lie is data.py's business.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.records.published import PublishedPoint, canonical_name
from bench.report.data.groups import Group
from bench.report.data.row import Row
from bench.report.figures.chart import Chart, Label, Legend, Limits, Line, Marks, Panel, Series
from bench.report.figures.style import DENSE, GREY, Style, greyed, styles
from bench.report.pareto.data import Foreign, ParetoData, Placed, pareto_data
from bench.report.pareto.finding import pareto_finding
from bench.report.tables.published import published_cells

_DENSE_NAME = "dense networks"
_SHUFFLED = "with masks shuffled among the images"


def pareto_chart(
    rows: Sequence[Row],
    *,
    x: str = "nflops",
    published: Sequence[PublishedPoint] = (),
    title: str | None = None,
) -> Chart:
    """Return accuracy against cost for the rows of one data set; failed runs are counted below it.

    `title` replaces the sentence made of the data. Published points without a place on the axis
    `x`, or far below ours, are left out and counted.

    Raises:
        UnknownNameError: no such axis.
        ConfigError: several data sets at once.
    """
    return chart_of(pareto_data(rows, x=x, published=published), title=title)


def chart_of(data: ParetoData, *, title: str | None = None) -> Chart:
    """Return the chart of Pareto data."""
    theirs = [foreign.point.method for foreign in data.published]
    known = styles(data.methods, controls=data.controls, theirs=theirs)
    lines, ours = _lines(data), _ours(data, known)
    papers = [_paper(foreign, known) for foreign in data.published]
    curves = [] if data.crowded else [*_curves(data, known), *_shuffled(data, known)]
    view = data.view
    panel = Panel(
        series=(*lines, *curves, *papers, *ours),
        x_label=data.x_label,
        y_label="test accuracy, %",
        x_limits=(None, None) if view is None else view.costs,
        y_limits=(None, None) if view is None else view.heights,
        labels=_labels(data),
        message="" if data.placed else "no finished runs",
    )
    finding = title or pareto_finding(data)
    own_names = _names([*ours, *lines, *curves])
    legends = [Legend("our runs", own_names)]
    if papers:
        legends.append(Legend("published (other recipes)", _names(papers)))
    return Chart(
        title=finding,
        panels=(panel,),
        notes=tuple(data.notes()),
        alt=f"Test accuracy against {data.x_label}. {finding}.",
        synthetic=data.synthetic,
        legends=tuple(legends),
        on_demand=(_SHUFFLED,),
    )


def _names(series: Iterable[Series]) -> tuple[str, ...]:
    named = (one.name for one in series if isinstance(one, Marks | Line) and one.name)
    return tuple(dict.fromkeys(named))


def _lines(data: ParetoData) -> list[Line]:
    """Return the front, the dense network, and what static networks reach at each cost."""
    found = []
    along = data.front
    if len(along) > 1:
        costs = tuple(placed.cost for placed in along)
        heights = tuple(100 * placed.group.accuracy for placed in along)
        found.append(Line(costs, heights, GREY, name="Pareto front of our runs", steps=True))
    if data.dense is not None:
        ends = _ends([placed.cost for placed in data.placed], data.view and data.view.costs)
        height = 100 * data.dense.group.accuracy
        name = f"dense {data.reference}"
        found.append(Line(ends, (height, height), DENSE.colour, name, 0.9, "dotted"))
    for points in data.static_curves:
        xs, ys = zip(*points, strict=True)
        percent = tuple(100 * y for y in ys)
        found.append(Line(xs, percent, DENSE.colour, "static curve", 1.6, opacity=0.8))
    return found


def _ends(costs: Sequence[float], limits: Limits | None) -> tuple[float, float]:
    low, high = min(costs), max(costs)
    room = 0.08 * (high - low)
    first, last = limits or (None, None)
    return (low - room if first is None else first, high + room if last is None else last)


def _ours(data: ParetoData, known: Mapping[str, Style]) -> list[Marks]:
    """Return one entry per legend name: a crowd pale and small, the rest with bars."""
    in_full = set(data.in_full)
    pale = [placed for placed in data.placed if placed not in in_full]
    found = [
        _marks(members, known, name, size=4, opacity=0.25)
        for name, members in _by_name(pale).items()
    ]
    for name, members in _by_name(data.in_full).items():
        groups = [placed.group for placed in members]
        ends = [g.accuracy_bounds or (g.accuracy, g.accuracy) for g in groups]
        low, high = (tuple(100 * end[side] for end in ends) for side in (0, 1))
        more = {"low": low, "high": high, "tips": tuple(map(_tip, groups))}
        found.append(_marks(members, known, name, **more))
    return found


def _marks(members: Sequence[Placed], known: Mapping[str, Style], name: str, **more: Any) -> Marks:
    return Marks(*_places(members), _style_of(members[0], known), name, **more)


def _places(members: Sequence[Placed]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    heights = tuple(100 * placed.group.accuracy for placed in members)
    return tuple(placed.cost for placed in members), heights


def _by_name(placed: Iterable[Placed]) -> dict[str, list[Placed]]:
    found: dict[str, list[Placed]] = defaultdict(list)
    for one in placed:
        found[_DENSE_NAME if one.group.dense else one.group.first.method].append(one)
    return dict(found)


def _style_of(placed: Placed, known: Mapping[str, Style]) -> Style:
    return DENSE if placed.group.dense else known[canonical_name(placed.group.first.method)]


def _shuffled(data: ParetoData, known: Mapping[str, Style]) -> list[Series]:
    """Return where each network falls when every image follows another image's decisions."""
    found: list[Series] = []
    for placed in data.placed:
        shuffled = placed.group.mean_of("shuffled_accuracy")
        if shuffled is not None and not placed.group.control:
            heights = (100 * placed.group.accuracy, 100 * shuffled)
            colour = _style_of(placed, known).colour
            found.append(Line((placed.cost,) * 2, heights, colour, _SHUFFLED, 0.8, opacity=0.5))
            found.append(Marks((placed.cost,), heights[1:], Style(colour, "_"), _SHUFFLED, size=9))
    return found


def _curves(data: ParetoData, known: Mapping[str, Style]) -> list[Series]:
    """Join the operating points of one training: between them lie all thresholds not tried."""
    return [
        Line(*_places(points), _style_of(points[0], known).colour, width=1.0, opacity=0.7)
        for points in data.curves
    ]


def _paper(foreign: Foreign, known: Mapping[str, Style]) -> Marks:
    style = known[canonical_name(foreign.point.method)]
    cells = [(name, text) for name, text in published_cells(foreign.point).items() if text]
    tip = "\n".join([f"published: {foreign.point.method}", *(f"{n}: {t}" for n, t in cells[1:])])
    return Marks(
        (foreign.cost,),
        (100 * foreign.accuracy,),
        Style(greyed(style.colour), style.mark),
        name=f"published: {foreign.point.method}",
        tips=(tip,),
        filled=False,
        size=7,
    )


def _tip(group: Group) -> str:
    """Return what is said of a network where a reader points at it."""
    first, spread, latency = group.first, group.accuracy_sd, group.mean_time("latency_ms", 1)
    accuracy, total = f"{100 * group.accuracy:.2f} %", group.mean_of("total_dense_epochs")
    cost = "cost unknown" if total is None else f"{total:.0f} dense epochs"
    pairs = [
        ("backbone", first.backbone),
        ("accuracy", accuracy if spread is None else f"{accuracy} ± {100 * spread:.2f} (sd)"),
        ("nFLOPs", f"{group.mean_of('nflops') or 0:.3f}, policy included"),
        ("without policy", f"{group.mean_of('nflops_backbone') or 0:.3f}"),
        ("MACs", f"{(group.mean_of('macs') or 0) / 1e6:.2f} M per image"),
        *_times(group),
        *([("batch 1", "not measured")] if latency is None else []),
        *_dynamics(group),
        ("recipe", f"{first.recipe}, {first.train_epochs} epochs"),
        ("training", ", ".join(text for text in (cost, first.budget_note) if text)),
        ("seed" if group.seeds == 1 else "seeds", ", ".join(str(r.seed) for r in group.rows)),
    ]
    return "\n".join([group.label, *(f"{name}: {value}" for name, value in pairs if value)])


def _times(group: Group) -> list[tuple[str, str]]:
    found = []
    for runtime in group.first.runtimes:
        took_ms, ratio = (group.mean_time(k, 1, runtime) for k in ("latency_ms", "speedup"))
        if took_ms is not None:
            speed = "" if ratio is None else f", {ratio:.2f}x"
            found.append((f"batch 1, {runtime}", f"{took_ms:.2f} ms{speed}"))
    return found


def _dynamics(group: Group) -> list[tuple[str, str]]:
    shuffled, difficulty = group.mean_of("shuffled_loss"), group.mean_of("difficulty_correlation")
    if shuffled is None:
        return []
    rank = "" if difficulty is None else f"{difficulty:+.2f} (rank correlation)"
    return [
        ("distinct masks", f"{group.mean_of('distinct_masks') or 0:,.0f}"),
        ("spread of nFLOPs over images", f"{group.mean_of('nflops_std') or 0:.3f} (sd)"),
        ("masks shuffled", f"{-100 * shuffled:+.2f} points"),
        ("cost and difficulty", rank),
    ]


def _labels(data: ParetoData) -> tuple[Label, ...]:
    """Return the names of points, those on the front first; some are spoken for by others."""
    runs: dict[str, set[str]] = defaultdict(set)
    for placed in data.placed:
        runs[placed.group.first.method].add(placed.group.first.run)
    several = {method for method, own in runs.items() if len(own) > 1}
    below, first, silent = set(data.below_view), set(data.front), _silent(data)
    named = [placed for placed in data.in_full if placed not in below | silent]
    return tuple(
        Label(placed.cost, 100 * placed.group.accuracy, _name(data, placed, several))
        for placed in sorted(named, key=lambda placed: placed not in first)
    )


def _silent(data: ParetoData) -> set[Placed]:
    """Return those that get no name.

    Controls, because the legend names them and names would cover the plot; all points of a curve
    but its last; all dense networks of a backbone but the most accurate; in a crowd, all of a
    method but its most accurate.
    """
    by_accuracy = sorted(data.in_full, key=lambda placed: placed.group.accuracy)
    dense = {p.backbone: p for p in by_accuracy if p.group.dense}
    best = {p.group.first.method: p for p in by_accuracy if not p.group.dense}
    inner = {p for points in data.curves for p in points[:-1]}
    silent = set()
    for placed in data.in_full:
        if placed.group.dense:
            spoken_for = placed is not dense[placed.backbone]
        elif data.crowded:
            spoken_for = placed is not best[placed.group.first.method]
        else:
            spoken_for = placed in inner
        if spoken_for or placed.group.control:
            silent.add(placed)
    return silent


def _name(data: ParetoData, placed: Placed, several: set[str]) -> str:
    first = placed.group.first
    if placed.group.dense:
        return first.backbone
    own = placed.group.apart or first.variant or first.method
    text = own if first.method in several else first.method
    return text if first.backbone == data.reference else f"{text} ({first.backbone})"
