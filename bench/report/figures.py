"""Figures for print: the Pareto plot drawn here, with the masks of one run and the saving.

What lies where and the sentence in the title come from plane.py; this module only draws.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from bench.records.published import PublishedPoint, canonical_name
from bench.report.canvas import frame, literal, new_figure, save_figure, stamp, wrapped, write_notes
from bench.report.headline import headline
from bench.report.labels import Spot, place_labels
from bench.report.masks import masks_figure
from bench.report.plane import Foreign, Placed, Plane, plane_of
from bench.report.rows import Row
from bench.report.style import DENSE, GREY, Style, greyed, styles

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Place = Literal["upper left", "lower left"]

__all__ = ["masks_figure", "pareto_figure", "save_figure"]

_LEGEND_LINE = 0.165
"""Inches that a line of a legend takes."""

_LEGEND_ROOM = 21
"""Lines that fit beside the plot of usual height, with many notes below it."""


@literal
def pareto_figure(
    rows: Sequence[Row],
    *,
    x: str = "nflops",
    published: Sequence[PublishedPoint] = (),
    title: str | None = None,
) -> Figure:
    """Return accuracy against cost for the rows of one data set; failed runs are counted below it.

    `title` replaces the sentence made of the data. Published points without a place on the axis
    `x`, or far below ours, are left out and counted.

    Raises:
        UnknownNameError: no such axis.
        ConfigError: several data sets at once, or matplotlib is not installed.
    """
    plane = plane_of(rows, x=x, published=published)
    figure = new_figure(9.6, 6.4 + _LEGEND_LINE * max(0, _legend_lines(plane) - _LEGEND_ROOM))
    # A column of its own for the legends, as narrow as they need: they cover no data.
    parts = figure.subplot_mosaic([["plot", "ours"], ["plot", "theirs"]], width_ratios=[1, 0.02])
    axes = parts["plot"]
    theirs = [foreign.point.method for foreign in plane.published]
    known = styles(plane.methods, controls=plane.controls, theirs=theirs)
    _draw_front(axes, plane)
    _draw_static(axes, plane)
    if not plane.crowded:
        _draw_curves(axes, plane, known)
        _draw_shuffled(axes, plane, known)
    ours = _draw_crowd(axes, plane, known)
    ours |= {_legend_name(p): _draw_group(axes, p, _style_of(p, known)) for p in plane.in_full}
    others = {f.point.method: _draw_published(axes, f, known) for f in plane.published}
    frame(axes, plane.x_label, "test accuracy, %")
    axes.margins(0.08, 0.08)
    if plane.view is not None:
        axes.set(xlim=plane.view.costs, ylim=plane.view.heights)
    axes.set_title(wrapped(title or headline(plane), 74), loc="left", fontsize=12)
    lines = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    _legend(parts["ours"], ours | lines, title="our runs", place="upper left")
    _legend(parts["theirs"], others, title="published (other recipes)", place="lower left")
    notes = plane.notes()
    # With the line that may be needed: a lower plot would push names into each other.
    write_notes(figure, [*notes, _unnamed_note(len(plane.in_full))])
    if plane.synthetic:
        stamp(axes, "synthetic data")
    if not plane.placed:
        axes.set(xticks=[], yticks=[])
    unnamed = _label_points(axes, plane)
    write_notes(figure, [*notes, _unnamed_note(unnamed)] if unnamed else notes)
    return figure


def _unnamed_note(count: int) -> str:
    return f"names left out for lack of room: {count}; see the table"


def _style_of(placed: Placed, known: Mapping[str, Style]) -> Style:
    if placed.group.dense:
        return DENSE
    return known[canonical_name(placed.group.first["method"])]


def _legend_lines(plane: Plane) -> int:
    """Return how many lines both legends take at most, with their titles and what is drawn."""
    ours = {_legend_name(placed) for placed in plane.placed}
    theirs = {foreign.point.method for foreign in plane.published}
    return len(ours) + len(theirs) + 5


def _legend_name(placed: Placed) -> str:
    return "dense networks" if placed.group.dense else str(placed.group.first["method"])


def _draw_crowd(axes: Axes, plane: Plane, known: Mapping[str, Style]) -> dict[str, Artist]:
    """Draw those that are too many to be drawn in full; return one mark per legend entry."""
    in_full = set(plane.in_full)
    found: dict[str, list[Placed]] = defaultdict(list)
    for placed in plane.placed:
        if placed not in in_full:
            found[_legend_name(placed)].append(placed)
    marks: dict[str, Artist] = {}
    for name, members in found.items():
        style = _style_of(members[0], known)
        look: dict[str, Any] = {"color": style.colour, "marker": style.mark, "linestyle": "none"}
        axes.plot(
            [placed.cost for placed in members],
            [100 * placed.group.accuracy for placed in members],
            **look,
            markersize=4,
            markeredgewidth=0,
            alpha=0.25,
            zorder=2,
            rasterized=True,
        )
        (marks[name],) = axes.plot([], [], **look, markersize=8)
    return marks


def _draw_group(axes: Axes, placed: Placed, style: Style) -> Artist:
    height, (low, high) = _in_percent(placed)
    drawn = axes.errorbar(
        [placed.cost],
        [height],
        yerr=[[height - low], [high - height]],
        fmt=style.mark,
        color=style.colour,
        markersize=8,
        capsize=3,
        elinewidth=1,
        zorder=4,
    )
    mark: Artist = drawn.lines[0]
    return mark


def _draw_shuffled(axes: Axes, plane: Plane, known: Mapping[str, Style]) -> None:
    """Draw where each network falls when every image follows another image's decisions."""
    for placed in plane.placed:
        shuffled = placed.group.mean_of("shuffled_accuracy")
        if shuffled is None or placed.group.control:
            continue
        colour = _style_of(placed, known).colour
        heights = [100 * placed.group.accuracy, 100 * shuffled]
        axes.plot([placed.cost] * 2, heights, color=colour, linewidth=0.8, alpha=0.5, zorder=3)
        axes.plot(
            [placed.cost],
            [heights[1]],
            marker="_",
            markersize=9,
            color=colour,
            linestyle="none",
            zorder=3,
        )


def _in_percent(placed: Placed) -> tuple[float, tuple[float, float]]:
    """Return the accuracy and the ends of its bar; a group without an interval has none."""
    accuracy, bounds = placed.group.accuracy, placed.group.accuracy_bounds
    low, high = (accuracy, accuracy) if bounds is None else bounds
    return 100 * accuracy, (100 * low, 100 * high)


def _steps(plane: Plane) -> list[Spot]:
    """Return the corners of the front: between two points one can only buy the cheaper."""
    corners: list[Spot] = []
    for placed in plane.front:
        if corners:
            corners.append((placed.cost, corners[-1][1]))
        corners.append((placed.cost, 100 * placed.group.accuracy))
    return corners


def _draw_front(axes: Axes, plane: Plane) -> None:
    corners = _steps(plane)
    if len(corners) > 1:
        costs, heights = zip(*corners, strict=True)
        label = "Pareto front of our runs"
        axes.plot(costs, heights, color=GREY, linewidth=1.2, zorder=1, label=label)
    if plane.dense is not None:
        height = 100 * plane.dense.group.accuracy
        label = f"dense {plane.reference}"
        axes.axhline(height, color="black", linewidth=0.9, linestyle=":", zorder=1, label=label)


def _draw_static(axes: Axes, plane: Plane) -> None:
    """Draw what static networks reach at each cost: what a dynamic one has to beat."""
    for number, line in enumerate(plane.static_curves):
        costs, heights = zip(*line, strict=True)
        label = "static curve" if number == 0 else None
        at_heights = [100 * height for height in heights]
        axes.plot(costs, at_heights, "k-", linewidth=1.4, alpha=0.8, zorder=2, label=label)


def _draw_curves(axes: Axes, plane: Plane, known: Mapping[str, Style]) -> None:
    """Join the operating points of one training: between them lie all thresholds not tried."""
    for points in plane.curves:
        costs = [placed.cost for placed in points]
        heights = [100 * placed.group.accuracy for placed in points]
        colour = _style_of(points[0], known).colour
        axes.plot(costs, heights, color=colour, linewidth=1.0, alpha=0.7, zorder=2)


def _draw_published(axes: Axes, foreign: Foreign, known: Mapping[str, Style]) -> Artist:
    style = known[canonical_name(foreign.point.method)]
    (mark,) = axes.plot(
        [foreign.cost],
        [100 * foreign.accuracy],
        marker=style.mark,
        markerfacecolor="none",
        markeredgecolor=greyed(style.colour),
        markeredgewidth=1.3,
        markersize=7,
        linestyle="none",
        zorder=2,
    )
    return mark


def _legend(axes: Axes, entries: Mapping[str, Artist], *, title: str, place: Place) -> None:
    axes.axis("off")
    if entries:
        axes.legend(
            list(entries.values()),
            list(entries),
            title=title,
            loc=place,
            frameon=False,
            alignment="left",
            borderaxespad=0.0,
            labelspacing=0.25,
            fontsize=9,
            title_fontsize=9,
        )


def _label_points(axes: Axes, plane: Plane) -> int:
    """Name the points, those on the front first; return how many names found no place."""
    below, first = set(plane.below_view), set(plane.front)
    in_full = [placed for placed in plane.in_full if placed not in below]
    in_full.sort(key=lambda placed: placed not in first)
    lines = list(itertools.pairwise(_steps(plane)))
    for placed in in_full:
        low, high = _in_percent(placed)[1]
        lines.append(((placed.cost, low), (placed.cost, high)))
    if plane.dense is not None:
        height = 100 * plane.dense.group.accuracy
        left, right = axes.get_xlim()
        lines.append(((left, height), (right, height)))
    return place_labels(
        axes,
        [(placed.cost, 100 * placed.group.accuracy) for placed in in_full],
        _labels(plane, in_full),
        marks=[(foreign.cost, 100 * foreign.accuracy) for foreign in plane.published],
        lines=lines,
    )


def _labels(plane: Plane, in_full: Sequence[Placed]) -> list[str]:
    """Return a name for each, or none where others speak for it."""
    runs: dict[str, set[str]] = defaultdict(set)
    for placed in plane.placed:
        runs[str(placed.group.first["method"])].add(placed.group.first["run"])
    several = {method for method, own in runs.items() if len(own) > 1}
    silent = _silent(plane, in_full)
    return ["" if one in silent else _point_label(plane, one, several) for one in in_full]


def _silent(plane: Plane, in_full: Sequence[Placed]) -> set[Placed]:
    """Return those that get no name.

    Controls, because the legend names them and names would cover the plot; all points of a curve
    but its last; all dense networks of a backbone but the most accurate; in a crowd, all of a
    method but its most accurate.
    """
    gated = [placed for placed in in_full if not placed.group.dense]
    silent = {placed for placed in gated if placed.group.control}
    dense = sorted((p for p in in_full if p.group.dense), key=lambda p: p.group.accuracy)
    best_dense = {str(placed.group.first["backbone"]): placed for placed in dense}
    silent |= {placed for placed in dense if placed not in best_dense.values()}
    if plane.crowded:
        best = {_legend_name(p): p for p in sorted(gated, key=lambda p: p.group.accuracy)}
        return silent | {placed for placed in gated if placed is not best[_legend_name(placed)]}
    return silent | {p for points in plane.curves for p in points[:-1] if not p.group.dense}


def _point_label(plane: Plane, placed: Placed, several: set[str]) -> str:
    first = placed.group.first
    if placed.group.dense:
        return str(first["backbone"])
    method = str(first["method"])
    own = placed.group.apart or first["variant"] or method
    text = str(own) if method in several else method
    return text if first["backbone"] == plane.reference else f"{text} ({first['backbone']})"
