"""Charts for print: drawn by matplotlib, and written as PNG, SVG or PDF.

Same chart, same bytes: no dates, no random ids, no global state of pyplot. Owns no data.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError
from bench.report.figures.chart import (
    GREY,
    Band,
    Bars,
    Chart,
    Line,
    Marks,
    Panel,
    Series,
    Shade,
    Text,
)
from bench.storage import make_folder, write_atomically

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

_GLUED = "\N{NO-BREAK SPACE}%"
_METADATA: Mapping[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
_LEGEND_IN, _LEGEND_LINE, _LEGEND_ROOM = 2.2, 0.165, 23
"""Inches that a legend takes across, and a line of it; how many lines fit beside a usual plot."""
_WIDE = 22
_LEGEND: Mapping[str, Any] = {
    **{"frameon": False, "alignment": "left", "labelspacing": 0.25, "borderaxespad": 0.0},
}
_ABOVE: Mapping[str, Any] = {
    **{"fontsize": 8, "loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "borderaxespad": 0.2},
    **{"borderpad": 0.1, "handlelength": 1.5, "handletextpad": 0.4, "columnspacing": 1.0},
    "title_fontproperties": {"weight": "bold", "size": 10},
}
_PLACES = (
    *((8, 6, "left", "bottom"), (9, 0, "left", "center"), (8, -6, "left", "top")),
    *((-8, 6, "right", "bottom"), (-9, 0, "right", "center"), (-8, -6, "right", "top")),
    *((6, 18, "left", "bottom"), (6, -18, "left", "top"), (-6, 18, "right", "bottom")),
    *((-6, -18, "right", "top"), (0, 26, "center", "bottom"), (0, -26, "center", "top")),
)
"""Offsets in points with alignments, from the best place to the worst."""

_LABEL_SIZE = 8.5
_MOST_HIDDEN = 0.02
"""A label that would share more of its area with other labels and points says nothing."""


def draw(chart: Chart) -> Figure:
    """Return the figure of a chart, which lays itself out and needs no display. Names are drawn as
    they are written: a $ in one is a $.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "Figures need matplotlib, which is not installed.", hint="pip install matplotlib"
        ) from None
    width, height = chart.size_in
    entries = sum(len(legend.names) for legend in chart.legends) + 5
    height += _LEGEND_LINE * max(0, entries - _LEGEND_ROOM)
    with matplotlib.rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        lines, shared = math.ceil(len(chart.panels) / chart.columns), chart.legend_in_panels
        found = figure.subplots(lines, chart.columns, squeeze=False, sharex=shared, sharey=shared)
        every = list(found.flat)[: len(chart.panels)]
        for axes in found.flat[len(chart.panels) :]:
            axes.axis("off")
        named: dict[str, Artist] = {}
        for axes, panel in zip(every, chart.panels, strict=True):
            named |= _draw_panel(axes, panel)
        _legends(figure, every, chart, named)
        title = wrapped(chart.title, int(10.6 * (width - _LEGEND_IN * bool(chart.legends))))
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        if chart.synthetic:
            look = {"fontsize": 30, "color": GREY, "alpha": 0.3, "rotation": 20, "zorder": 0}
            every[0].text(0.5, 0.5, "synthetic data", **_centred(every[0]), **look)
        _write_notes(figure, every, chart)
        return figure


def _legends(
    figure: Figure, every: Sequence[Axes], chart: Chart, named: Mapping[str, Artist]
) -> None:
    """Write the legends: those of the chart at the right, or one above each panel, or one below."""
    if chart.legend_in_panels:
        _legends_above(every, chart)
    for legend, place in zip(chart.legends, ("upper", "lower"), strict=False):
        if known := [name for name in legend.names if name in named]:
            look = {"title": legend.title, "loc": f"outside right {place}", **_LEGEND}
            handles = [named[name] for name in known]
            figure.legend(handles, known, fontsize=9, title_fontsize=9, **look)
    if not chart.legend_in_panels and not chart.legends and len(named) > 1:
        look = {"loc": "outside lower center", "ncols": 6, "frameon": False}
        figure.legend(list(named.values()), list(named), **look)


def _draw_panel(axes: Axes, panel: Panel) -> dict[str, Artist]:
    """Draw a panel; return one mark for each entry of a legend."""
    found: dict[str, Artist] = {}
    for order, series in enumerate(panel.series):
        drawn = _draw(axes, series, order)
        if isinstance(series, Marks | Line) and series.name and drawn is not None:
            found.setdefault(series.name, drawn)
    if panel.framed:
        axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(0.08, 0.08)
    else:
        axes.axis("off")
    axes.set_xlim(*panel.x_limits)
    axes.set_ylim(*panel.y_limits)
    if panel.whole_x:
        axes.locator_params(axis="x", integer=True)
    if panel.message:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, textwrap.fill(panel.message, 44), **_centred(axes))
    return found


def _centred(axes: Axes) -> dict[str, Any]:
    return {"transform": axes.transAxes, "ha": "center", "va": "center"}


def _draw(axes: Axes, series: Series, order: int) -> Artist | None:
    match series:
        case Marks():
            return _draw_marks(axes, series, order)
        case Line():
            look: dict[str, Any] = {"drawstyle": "steps-post"} if series.steps else {}
            look |= {"color": series.colour, "linewidth": series.width, "linestyle": series.dash}
            (line,) = axes.plot(series.x, series.y, **look, alpha=series.opacity, zorder=1.5)
            return line
        case Bars():
            look = {"color": series.colour, "alpha": series.opacity}
            axes.bar(series.x, series.y, width=series.width, **look)
        case Band():
            look = {"color": series.colour, "alpha": 0.2, "linewidth": 0}
            axes.fill_between(series.x, series.low, series.high, **look)
        case Shade():
            axes.axvspan(series.start, series.end, color=series.colour, alpha=0.15, linewidth=0)
        case Text():
            box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
            look = {"weight": "bold" if series.bold else "normal", "color": series.colour}
            look |= {"xytext": (series.shift, 0), "textcoords": "offset points", "fontsize": 8}
            look |= {"ha": series.align, "va": "center", "bbox": box if series.boxed else None}
            axes.annotate(series.text, (series.x, series.y), zorder=6, **look)
    return None


def _draw_marks(axes: Axes, marks: Marks, order: int) -> Artist:
    style = marks.style
    look: dict[str, Any] = {
        "marker": style.mark,
        "color": style.colour,
        "markersize": marks.size,
        "linestyle": "-" if marks.joined else "none",
        "linewidth": 1.2,
        "zorder": 3 + order / 100,
    }
    if not marks.filled:
        look |= {"markerfacecolor": "none", "markeredgewidth": 1.3}
    if marks.opacity < 1:
        look |= {"alpha": marks.opacity, "markeredgewidth": 0, "rasterized": True}
        axes.plot(marks.x, marks.y, **look)
        (mark,) = axes.plot([], [], color=style.colour, marker=style.mark, linestyle="none")
        return mark
    if marks.low:
        below = [y - low for y, low in zip(marks.y, marks.low, strict=True)]
        above = [high - y for y, high in zip(marks.y, marks.high, strict=True)]
        look |= {"capsize": 2.5, "elinewidth": 1}
        found: Artist = axes.errorbar(marks.x, marks.y, yerr=[below, above], **look).lines[0]
        return found
    (line,) = axes.plot(marks.x, marks.y, **look)
    return line


def _legends_above(every: Sequence[Axes], chart: Chart) -> None:
    """Write a legend above each panel, its title first; axes are named at the edges only."""
    for number, (axes, panel) in enumerate(zip(every, chart.panels, strict=True)):
        named = [s for s in panel.series if isinstance(s, Marks) and s.name]
        wide = max((len(series.name) for series in named), default=0) >= _WIDE
        keys = [
            axes.plot([], [], f"{s.style.mark}-", color=s.style.colour, markersize=5)[0]
            for s in named
        ]
        look: dict[str, Any] = {**_LEGEND, **_ABOVE, "ncols": 1 if wide else 2}
        axes.legend(keys, [series.name for series in named], title=panel.title, **look)
        if number % chart.columns:
            axes.set_ylabel("")
        if number + chart.columns < len(chart.panels):
            axes.set_xlabel("")
        else:
            axes.tick_params(labelbottom=True)


def _write_notes(figure: Figure, every: Sequence[Axes], chart: Chart) -> None:
    """Write notes and names; those that found no room are counted in a note."""

    def write(without_room: int) -> None:
        said = f"names left out for lack of room: {without_room}; see the table"
        notes = [*chart.notes, *([said] if without_room else [])]
        text = "\n".join(wrapped(note, 130) for note in notes)
        figure.supxlabel(text, x=0.01, ha="left", fontsize=8, color="#444444")

    # With the line that may be needed: a lower plot would push names into each other.
    write(sum(len(panel.labels) for panel in chart.panels))
    write(sum(_place_labels(*one) for one in zip(every, chart.panels, strict=True)))


def _place_labels(axes: Axes, panel: Panel) -> int:
    """Write the labels of a panel, the first ones first, each where it covers the least of points,
    bars, level lines and other labels; return how many found no place."""
    if not panel.labels:
        return 0  # a layout of the whole figure takes longer than its drawing
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    marks, lines = (list(_boxes(axes, panel, kind)) for kind in (Marks, Line))
    look: dict[str, Any] = {"textcoords": "offset points", "fontsize": _LABEL_SIZE, "zorder": 5}
    left_out = 0
    for label in panel.labels:
        text = axes.annotate(label.text, (label.x, label.y), xytext=(0, 0), **look)
        text.set_in_layout(False)
        costs = []
        for rank, place in enumerate(_PLACES):
            box = _moved(text, *place)
            hidden = sum(_shared(box, other) for other in (*marks, *lines))
            outside = float(box.width * box.height) - _shared(box, axes.bbox)
            costs.append(hidden + 3 * outside + rank)
        box = _moved(text, *_PLACES[costs.index(min(costs))])
        if sum(_shared(box, other) for other in marks) > _MOST_HIDDEN * box.width * box.height:
            text.remove()
            left_out += 1
        else:
            marks.append(box)
    return left_out


def _moved(text: Annotation, across: float, up: float, ha: str, va: str) -> Bbox:
    text.set(position=(across, up), ha=ha, va=va)
    return text.get_window_extent()


def _boxes(axes: Axes, panel: Panel, kind: type[Marks | Line]) -> Iterator[Bbox]:
    """Yield the boxes in pixels around the points of all marks, or around bars and level lines."""
    from matplotlib.transforms import Bbox

    def around(xs: Sequence[float], ys: Sequence[float], reach: float) -> Bbox:
        corners = axes.transData.transform(list(zip(xs, ys, strict=True)))
        return Bbox([corners.min(axis=0) - reach, corners.max(axis=0) + reach])

    for one in panel.series:
        if kind is Marks and isinstance(one, Marks) and one.opacity == 1:
            reach = _LABEL_SIZE * axes.figure.dpi / 144
            yield from (around([x], [y], reach) for x, y in zip(one.x, one.y, strict=True))
        elif kind is Line and isinstance(one, Marks):
            for x, low, high in zip(one.x, one.low, one.high, strict=False):
                yield around([x, x], [low, high], 2.0)
        elif kind is Line and isinstance(one, Line) and (one.steps or one.dash == "dotted"):
            for n in range(len(one.x) - 1):
                yield around(one.x[n : n + 2], [one.y[n]] * 2, 2.0)
                yield around([one.x[n + 1]] * 2, one.y[n : n + 2], 2.0)


def _shared(a: Bbox, b: Bbox) -> float:
    """Return the area in square pixels that two boxes share."""
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return float(max(width, 0) * max(height, 0))


def write_chart(chart: Chart, *paths: Path) -> list[Path]:
    """Draw a chart once and write it to each of `paths`, as `save_figure` does; return them."""
    figure = draw(chart)
    return [save_figure(figure, path) for path in paths]


def save_figure(figure: Figure, path: Path) -> Path:
    """Write the figure to `path`, by its extension: .png, .svg or .pdf; equal input, equal bytes.

    Raises:
        ConfigError: another extension.
        StorageError: the folder is read-only, full or gone.
    """
    import matplotlib

    kind = path.suffix.lower()
    if kind not in _METADATA:
        raise ConfigError(
            f"A figure cannot be written as '{path.name}'.",
            hint=f"Expected one of {', '.join(_METADATA)}; .html makes an interactive page.",
        )
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "skipbench", "text.parse_math": False}):
        figure.savefig(buffer, format=kind[1:], dpi=150, metadata=_METADATA[kind])
    make_folder(path.parent)
    write_atomically(path, buffer.getvalue())
    return path


def wrapped(text: str, width: int) -> str:
    """Break `text` into lines of at most `width` characters, never before a percent sign."""
    kept = textwrap.wrap(text.replace(" %", _GLUED), width)
    return "\n".join(kept).replace(_GLUED, " %")
