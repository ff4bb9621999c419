"""The Pareto plot as a chart: our networks, what they have to beat, and what papers print.

Owns what of the data is drawn, how, and named; where things lie is data.py's business.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.records.published import canonical_name
from bench.report.data.groups import SeedGroup
from bench.report.figures.chart import Chart, Label, Legend, Line, Marks, Panel, Series
from bench.report.figures.style import DENSE, GREY, Style, greyed, styles
from bench.report.pareto.data import Foreign, ParetoData, Placed
from bench.report.pareto.finding import pareto_finding
from bench.report.tables.cells import number, percent_with_sd
from bench.report.tables.published import published_cells

_DENSE_NAME = "dense networks"
_SHUFFLED = "with masks shuffled among the images"


def pareto_chart(data: ParetoData, *, title: str | None = None) -> Chart:
    """Return accuracy against cost; `title` replaces the sentence made of the data."""
    theirs = [foreign.point.method for foreign in data.published]
    known = styles(data.methods, controls=data.controls, theirs=theirs)
    lines, ours = _lines(data), _ours(data, known)
    papers = [_paper(foreign, known) for foreign in data.published]
    if not data.crowded:
        lines += _between_points(data, known)
    view = data.view
    panel = Panel(
        series=(*lines, *papers, *ours),
        x_label=data.x_label,
        y_label="test accuracy, %",
        x_limits=(None, None) if view is None else view.costs,
        y_limits=(None, None) if view is None else view.heights,
        labels=_labels(data),
        message="" if data.placed else "no finished runs",
    )
    finding = title or pareto_finding(data)
    legends = [Legend("our runs", _names([*ours, *lines]))]
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


def _lines(data: ParetoData) -> list[Series]:
    """Return the front, the dense network, and what static networks reach at each cost."""
    found: list[Series] = []
    if len(along := data.front) > 1:
        name = "Pareto front of our runs"
        found.append(Line(*_places(along), GREY, name=name, steps=True))
    if data.dense is not None:
        costs = [placed.cost for placed in data.placed]
        room = 0.08 * (max(costs) - min(costs))
        ends = data.view.costs if data.view else (min(costs) - room, max(costs) + room)
        heights = (100 * data.dense.accuracy,) * 2
        name = f"dense {data.reference}"
        found.append(Line(ends, heights, DENSE.colour, name, 0.9, "dotted"))
    for points in data.static_curves:
        xs, ys = zip(*points, strict=True)
        percent = tuple(100 * y for y in ys)
        found.append(Line(xs, percent, DENSE.colour, "static curve", 1.6, opacity=0.8))
    return found


def _ours(data: ParetoData, known: Mapping[str, Style]) -> list[Marks]:
    """Return one entry per legend name: a crowd pale and small, the rest with bars."""
    in_full = set(data.in_full)
    crowd = [placed for placed in data.placed if placed not in in_full]
    found = [_marks(members, known, size=4, opacity=0.25) for members in _by_name(crowd)]
    for members in _by_name(data.in_full):
        low, high = (tuple(100 * placed.bar[side] for placed in members) for side in (0, 1))
        tips = tuple(_tip(placed.group) for placed in members)
        found.append(_marks(members, known, low=low, high=high, tips=tips))
    return found


def _by_name(placed: Iterable[Placed]) -> list[list[Placed]]:
    found: dict[str, list[Placed]] = defaultdict(list)
    for one in placed:
        found[_name(one)].append(one)
    return list(found.values())


def _name(placed: Placed) -> str:
    return _DENSE_NAME if placed.group.dense else placed.group.first.method


def _marks(members: Sequence[Placed], known: Mapping[str, Style], **more: Any) -> Marks:
    return Marks(*_places(members), _style(members[0], known), _name(members[0]), **more)


def _places(members: Sequence[Placed]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    heights = tuple(100 * placed.accuracy for placed in members)
    return tuple(placed.cost for placed in members), heights


def _style(placed: Placed, known: Mapping[str, Style]) -> Style:
    return DENSE if placed.group.dense else known[canonical_name(placed.group.first.method)]


def _between_points(data: ParetoData, known: Mapping[str, Style]) -> list[Series]:
    """Join the operating points of one training, between which lie all thresholds not tried; and
    say where each network falls when every image follows another image's decisions."""
    found: list[Series] = [
        Line(*_places(points), _style(points[0], known).colour, width=1.0, opacity=0.7)
        for points in data.curves
    ]
    for placed in data.placed:
        shuffled = placed.group.mean_of("shuffled_accuracy")
        if shuffled is not None and not placed.group.control:
            heights, colour = (100 * placed.accuracy, 100 * shuffled), _style(placed, known).colour
            found.append(Line((placed.cost,) * 2, heights, colour, _SHUFFLED, 0.8, opacity=0.5))
            found.append(Marks((placed.cost,), heights[1:], Style(colour, "_"), _SHUFFLED, size=9))
    return found


def _paper(foreign: Foreign, known: Mapping[str, Style]) -> Marks:
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
    """Return what is said of a network where a reader points at it."""
    first, total = group.first, group.mean_of("total_dense_epochs")
    cost = "cost unknown" if total is None else f"{total:.0f} dense epochs"
    pairs = {
        "backbone": first.backbone,
        "accuracy": f"{percent_with_sd(group.accuracy, group.accuracy_sd)} %",
        "nFLOPs": f"{number(group.mean_of('nflops'), '.3f')}, policy included",
        "without policy": number(group.mean_of("nflops_backbone"), ".3f"),
        "MACs": f"{number(group.mean_of('macs'), scale=1e-6)} M per image",
    }
    for runtime in first.runtimes:
        took_ms, ratio = (group.mean_time(k, 1, runtime) for k in ("latency_ms", "speedup"))
        if took_ms is not None:
            speed = "" if ratio is None else f", {ratio:.2f}x"
            pairs[f"batch 1, {runtime}"] = f"{took_ms:.2f} ms{speed}"
    if (shuffled := group.mean_of("shuffled_loss")) is not None:
        pairs |= {
            "distinct masks": number(group.mean_of("distinct_masks"), ",.0f"),
            "spread of nFLOPs over images": number(group.mean_of("nflops_std"), ".3f"),
            "masks shuffled": f"{-100 * shuffled:+.2f} points",
            "cost and difficulty": number(group.mean_of("difficulty_correlation"), "+.2f"),
        }
    pairs |= {
        "recipe": f"{first.recipe}, {first.train_epochs} epochs",
        "training": ", ".join(text for text in (cost, first.budget_note) if text),
        "seed" if group.seeds == 1 else "seeds": ", ".join(str(row.seed) for row in group.rows),
    }
    return "\n".join([group.label, *(f"{name}: {value}" for name, value in pairs.items() if value)])


def _labels(data: ParetoData) -> tuple[Label, ...]:
    """Return the names of points, those on the front first; some are spoken for by others.

    Controls, because the legend names them and names would cover the plot; all points of a curve
    but its last; all dense networks of a backbone but the most accurate; in a crowd, all of a
    method but its most accurate.
    """
    by_accuracy = sorted(data.in_full, key=lambda placed: placed.by_accuracy)
    dense = {p.backbone: p for p in by_accuracy if p.group.dense}
    named = [p for p in data.in_full if not (p.group.dense or p.group.control)]
    if data.crowded:
        best = {p.group.first.method: p for p in by_accuracy if not p.group.dense}
        named = [p for p in named if p in best.values()]
    else:
        inner = {p for points in data.curves for p in points[:-1]}
        named = [p for p in named if p not in inner]
    runs: dict[str, set[str]] = defaultdict(set)
    for placed in data.placed:
        runs[placed.group.first.method].add(placed.group.first.run)
    below, front = set(data.below_view), set(data.front)
    shown = [p for p in data.in_full if p in {*named, *dense.values()} - below]
    return tuple(
        Label(p.cost, 100 * p.accuracy, _label(p, data.reference, len(runs[p.group.first.method])))
        for p in sorted(shown, key=lambda placed: placed not in front)
    )


def _label(placed: Placed, reference: str, runs: int) -> str:
    first = placed.group.first
    if placed.group.dense:
        return first.backbone
    text = placed.group.apart or first.variant or first.method if runs > 1 else first.method
    return text if first.backbone == reference else f"{text} ({first.backbone})"
