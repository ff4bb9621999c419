"""Charts for print: drawn by matplotlib, and written as PNG, SVG or PDF.

Same chart, same bytes: no dates, no random ids, no global state of pyplot. Owns no data.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ConfigError
from bench.report.figures.chart import GREY, Bars, Chart, Line, Marks, Panel, Series
from bench.storage import make_folder, write_atomically

if TYPE_CHECKING:
    from pathlib import Path as FilePath

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

_METADATA: Mapping[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
_LEGEND_IN, _LEGEND_LINE_IN, _MOST_LINES = 2.2, 0.165, 23
"""Inches that a legend takes across, and a line of it; how many lines fit beside a usual plot."""
_WIDE = 22
_LEGEND: Mapping[str, Any] = {"frameon": False, "alignment": "left", "labelspacing": 0.25}
_LEGEND_ABOVE: Mapping[str, Any] = {
    **_LEGEND,
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
"""Offsets of a label in points with alignments, from the best place to the worst."""

_LABEL_SIZE = 8.5


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
    height += _LEGEND_LINE_IN * max(0, len(chart.names) - _MOST_LINES)
    with matplotlib.rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        lines, shared = math.ceil(len(chart.panels) / chart.columns), chart.legend_in_panels
        found = figure.subplots(lines, chart.columns, squeeze=False, sharex=shared, sharey=shared)
        every = list(found.flat)[: len(chart.panels)]
        for axes in found.flat[len(chart.panels) :]:
            axes.axis("off")
        for axes, panel in zip(every, chart.panels, strict=True):
            _draw_panel(axes, panel)
        _legends(figure, every, chart)
        title = textwrap.fill(chart.title, int(10.6 * (width - _LEGEND_IN * bool(chart.names))))
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        if chart.synthetic:
            look = {"fontsize": 30, "color": GREY, "alpha": 0.3, "rotation": 20, "zorder": 0}
            every[0].text(0.5, 0.5, "synthetic data", **_centred(every[0]), **look)
        notes = "\n".join(textwrap.fill(note, 130) for note in chart.notes)
        figure.supxlabel(notes, x=0.01, ha="left", fontsize=8, color="#444444")
        for axes, panel in zip(every, chart.panels, strict=True):
            _place_labels(axes, panel)
        return figure


def _legends(figure: Figure, every: Sequence[Axes], chart: Chart) -> None:
    """Write the legend of the chart at its right, or one above each panel."""
    if chart.legend_in_panels:
        _legends_above(every, chart)
    elif chart.names:
        entries = [axes.get_legend_handles_labels() for axes in every]
        named = {n: h for hs, ns in entries for n, h in zip(ns, hs, strict=True)}
        handles = [named[name] for name in chart.names]
        look = {"loc": "outside right upper", "borderaxespad": 0.0, "fontsize": 9, **_LEGEND}
        figure.legend(handles, chart.names, **look)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    for order, series in enumerate(panel.series):
        _draw(axes, series, order)
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(0.08, 0.08)
    axes.set_xlim(*panel.x_limits)
    axes.set_ylim(*panel.y_limits)
    if panel.whole_x:
        axes.locator_params(axis="x", integer=True)
    if panel.message:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, textwrap.fill(panel.message, 44), **_centred(axes))


def _centred(axes: Axes) -> dict[str, Any]:
    return {"transform": axes.transAxes, "ha": "center", "va": "center"}


def _draw(axes: Axes, series: Series, order: int) -> None:
    match series:
        case Marks():
            _draw_marks(axes, series, order)
        case Line():
            look: dict[str, Any] = {"color": series.colour, "linestyle": series.dash}
            look |= {"linewidth": 1.3, "alpha": series.opacity, "zorder": 1.5}
            look |= {"drawstyle": "steps-post" if series.steps else "default"}
            axes.plot(series.x, series.y, label=series.name or None, **look)
        case Bars():
            look = {"color": series.colour, "alpha": series.opacity}
            axes.bar(series.x, series.y, width=series.width, **look)


def _draw_marks(axes: Axes, marks: Marks, order: int) -> None:
    style = marks.style
    look: dict[str, Any] = {
        "marker": style.mark,
        "color": style.colour,
        "markersize": marks.size,
        "linestyle": "-" if marks.joined else "none",
        "linewidth": 1.2,
        "zorder": 3 + order / 100,
        "label": marks.name or None,
    }
    if not marks.filled:
        look |= {"markerfacecolor": "none", "markeredgewidth": 1.3}
    if marks.opacity < 1:
        look |= {"alpha": marks.opacity, "markeredgewidth": 0, "rasterized": True}
    if marks.low:
        ends = np.abs(np.array([marks.low, marks.high]) - marks.y)
        bars: dict[str, Any] = {"fmt": "none", "ecolor": style.colour, "zorder": look["zorder"]}
        axes.errorbar(marks.x, marks.y, yerr=ends, capsize=2.5, elinewidth=1, **bars)
    axes.plot(marks.x, marks.y, **look)


def _legends_above(every: Sequence[Axes], chart: Chart) -> None:
    """Write a legend above each panel, its title first; axes are named at the edges only."""
    for number, (axes, panel) in enumerate(zip(every, chart.panels, strict=True)):
        names = axes.get_legend_handles_labels()[1]
        columns = 1 if max(map(len, names), default=0) >= _WIDE else 2
        axes.legend(title=panel.title, ncols=columns, **_LEGEND_ABOVE)
        if number % chart.columns:
            axes.set_ylabel("")
        if number + chart.columns < len(chart.panels):
            axes.set_xlabel("")
        else:
            axes.tick_params(labelbottom=True)


def _place_labels(axes: Axes, panel: Panel) -> None:
    """Write the labels of a panel, the first ones first, where they cover no mark and no other
    label, and no line either where that is possible; a thin line leads each to its point. Without a
    place one is left out."""
    if not panel.labels:
        return  # a layout of the whole figure takes longer than its drawing
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    taken, lines = _boxes_of_marks(axes, panel), _drawn_lines(axes)
    leader = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
    look: dict[str, Any] = {
        **{"textcoords": "offset points", "fontsize": _LABEL_SIZE, "zorder": 5},
        "arrowprops": leader,
    }
    for label in panel.labels:
        text = axes.annotate(label.text, (label.x, label.y), xytext=(0, 0), **look)
        text.set_in_layout(False)
        free = [p for p in _PLACES if _is_free(_moved(text, p), axes.bbox, taken)]
        clear = (p for p in free if not _crossed(_moved(text, p), lines))
        if free:
            taken.append(_moved(text, next(clear, free[0])))
        else:
            text.remove()


def _moved(text: Annotation, place: tuple[float, float, str, str]) -> Bbox:
    from matplotlib.text import Text

    across, up, ha, va = place
    text.set(position=(across, up), ha=ha, va=va)
    text.get_window_extent()  # moves it
    return Text.get_window_extent(text)  # without the line that leads to its point


def _is_free(box: Bbox, plot: Bbox, taken: Sequence[Bbox]) -> bool:
    inside = bool(np.all(box.min >= plot.min) and np.all(box.max <= plot.max))
    return inside and not box.count_overlaps(taken)


def _crossed(box: Bbox, lines: Sequence[Path]) -> bool:
    return any(line.intersects_bbox(box, filled=False) for line in lines)


def _boxes_of_marks(axes: Axes, panel: Panel) -> list[Bbox]:
    """Return the boxes in pixels around the marks of a panel."""
    from matplotlib.transforms import Bbox

    marks = (one for one in panel.series if isinstance(one, Marks) and one.opacity == 1)
    places = [place for one in marks for place in zip(one.x, one.y, strict=True)]
    reach = _LABEL_SIZE * axes.figure.dpi / 144
    return [Bbox([at - reach, at + reach]) for at in axes.transData.transform(places)]


def _drawn_lines(axes: Axes) -> list[Path]:
    """Return the lines and bars of a panel, in pixels."""
    lines = (line for line in axes.lines if line.get_linestyle() != "None")
    found = [line.get_transform().transform_path(line.get_path()) for line in lines]
    bars = (path for drawn in axes.collections for path in drawn.get_paths())
    return [*found, *(axes.transData.transform_path(path) for path in bars)]


def write_chart(chart: Chart, *paths: FilePath) -> list[FilePath]:
    """Draw a chart once and write it to each of `paths`, as `save_figure` does; return them."""
    figure = draw(chart)
    return [save_figure(figure, path) for path in paths]


def save_figure(figure: Figure, path: FilePath) -> FilePath:
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
