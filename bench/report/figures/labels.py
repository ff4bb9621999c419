"""Names beside points that do not run into each other.

Owns the placing of labels in a matplotlib plot, and which are left out; knows nothing of runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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

_MOST_HIDDEN = 0.02
"""A label that would share more of its area with other labels and points says nothing."""

Spot = tuple[float, float]


def place_labels(
    axes: Axes,
    points: Sequence[Spot],
    texts: Sequence[str],
    *,
    marks: Sequence[Spot] = (),
    lines: Sequence[tuple[Spot, Spot]] = (),
    size: float = 8.5,
) -> int:
    """Write each text beside its point where it covers the least; return how many found no place.

    Those to be placed first come first; an empty text is none. `marks` are other points and `lines`
    level or upright lines, all in data coordinates.
    """
    figure = axes.figure
    figure.draw_without_rendering()  # type: ignore[union-attr]
    reach = size * figure.dpi / 72 / 2
    taken = [_around(axes, spot, spot, reach) for spot in (*points, *marks)]
    crossed = [_around(axes, start, end, 2.0) for start, end in lines]
    left_out = 0
    for point, text in zip(points, texts, strict=True):
        if text:
            box = _place(axes, point, text, size=size, taken=taken, crossed=crossed)
            left_out += box is None
            taken += [] if box is None else [box]
    return left_out


def _around(axes: Axes, start: Spot, end: Spot, reach: float) -> Bbox:
    from matplotlib.transforms import Bbox

    (x0, y0), (x1, y1) = axes.transData.transform([start, end])
    corners = min(x0, x1) - reach, min(y0, y1) - reach, max(x0, x1) + reach, max(y0, y1) + reach
    return Bbox.from_extents(*corners)


def _place(
    axes: Axes,
    point: Spot,
    text: str,
    *,
    size: float,
    taken: Sequence[Bbox],
    crossed: Sequence[Bbox],
) -> Bbox | None:
    look: dict[str, Any] = {"textcoords": "offset points", "fontsize": size, "zorder": 5}
    label = axes.annotate(text, point, xytext=(0, 0), **look)
    label.set_in_layout(False)

    def moved(place: tuple[int, int, str, str]) -> Bbox:
        label.set_position(place[:2])
        label.set(ha=place[2], va=place[3])
        return label.get_window_extent()

    costs = []
    for rank, place in enumerate(_PLACES):
        box = moved(place)
        hidden = sum(_shared(box, other) for other in (*taken, *crossed))
        outside = box.width * box.height - _shared(box, axes.bbox)
        costs.append((hidden + 3 * outside + rank, rank))
    best = moved(_PLACES[min(costs)[1]])
    if sum(_shared(best, other) for other in taken) > _MOST_HIDDEN * best.width * best.height:
        label.remove()
        return None
    return best


def _shared(a: Bbox, b: Bbox) -> float:
    """Return the area in square pixels that two boxes share."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return float(max(width, 0) * max(height, 0))
