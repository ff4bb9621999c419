"""Names beside points in a matplotlib plot that do not run into each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bench.report.figures.chart import Line, Marks, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

_PLACES = (
    *((8, 6, "left", "bottom"), (9, 0, "left", "center"), (8, -6, "left", "top")),
    *((-8, 6, "right", "bottom"), (-9, 0, "right", "center"), (-8, -6, "right", "top")),
    *((6, 18, "left", "bottom"), (6, -18, "left", "top"), (-6, 18, "right", "bottom")),
    *((-6, -18, "right", "top"), (0, 26, "center", "bottom"), (0, -26, "center", "top")),
)
"""Offsets in points with alignments, from the best place to the worst."""

_SIZE = 8.5
_MOST_HIDDEN = 0.02
"""A label that would share more of its area with other labels and points says nothing."""


def place_labels(axes: Axes, panel: Panel) -> int:
    """Write the labels of a panel, the first ones first, each where it covers the least of points,
    bars, level lines and other labels; return how many found no place."""
    if not panel.labels:
        return 0  # a layout of the whole figure takes longer than its drawing
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    marks, lines = (list(_boxes(axes, panel, kind)) for kind in (Marks, Line))
    left_out = 0
    for label in panel.labels:
        look: dict[str, Any] = {"textcoords": "offset points", "fontsize": _SIZE, "zorder": 5}
        text = axes.annotate(label.text, (label.x, label.y), xytext=(0, 0), **look)
        text.set_in_layout(False)

        def moved(rank: int, text: Any = text) -> Bbox:
            across, up, ha, va = _PLACES[rank]
            text.set(position=(across, up), ha=ha, va=va)
            box: Bbox = text.get_window_extent()
            return box

        def cost(rank: int, moved: Any = moved) -> float:
            box = moved(rank)
            hidden = sum(_shared(box, other) for other in (*marks, *lines))
            outside = float(box.width * box.height) - _shared(box, axes.bbox)
            return hidden + 3 * outside + rank

        box = moved(min(range(len(_PLACES)), key=cost))
        if sum(_shared(box, other) for other in marks) > _MOST_HIDDEN * box.width * box.height:
            text.remove()
            left_out += 1
        else:
            marks.append(box)
    return left_out


def _boxes(axes: Axes, panel: Panel, kind: type[Marks | Line]) -> Iterator[Bbox]:
    """Yield the boxes in pixels around the points of all marks, or around bars and level lines."""
    from matplotlib.transforms import Bbox

    def around(xs: Sequence[float], ys: Sequence[float], reach: float) -> Bbox:
        corners = axes.transData.transform(list(zip(xs, ys, strict=True)))
        return Bbox([corners.min(axis=0) - reach, corners.max(axis=0) + reach])

    for one in panel.series:
        if kind is Marks and isinstance(one, Marks) and one.opacity == 1:
            reach = _SIZE * axes.figure.dpi / 144
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
