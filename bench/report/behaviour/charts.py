"""What networks do with images as charts: block rates, gradients, cost per image, difficulty.

The numbers come from numbers.py; owns the panels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bench.plain_text import one_line
from bench.records.published import canonical_name
from bench.records.record import PointRecord
from bench.report.behaviour.numbers import Behaviour, PointBehaviour
from bench.report.figures.chart import GREY, Bars, Chart, Line, Marks, Panel, Series, Style, styles

_BINS = 40


def behaviour_chart(behaviour: Behaviour) -> Chart:
    """Return four panels: rate and gradient of each block, cost per image, and by difficulty."""
    points = behaviour.points
    return Chart(
        title=behaviour.label,
        panels=(_rates(points), _gradients(behaviour), _costs(points), _difficulty(points)),
        columns=2,
        size_in=(11.0, 6.6),
        synthetic=behaviour.record.synthetic,
    )


def point_label(point: PointRecord) -> str:
    """Return what an operating point is called in a legend."""
    return one_line(point.name) or "the network"


def _styled(points: Sequence[PointBehaviour]) -> list[tuple[PointBehaviour, Style]]:
    known = styles(point_label(shown.point) for shown in points)
    return [(shown, known[canonical_name(point_label(shown.point))]) for shown in points]


def _rates(points: Sequence[PointBehaviour]) -> Panel:
    first = points[0].point
    names = list(first.block_rates)
    fixed = tuple(float(n) for n, name in enumerate(names) if name not in first.gated_blocks)
    series: list[Series] = [Bars(fixed, (1.0,) * len(fixed), 1.0, GREY, 0.2)]
    for shown, style in _styled(points):
        rates, label = tuple(shown.point.block_rates.values()), point_label(shown.point)
        places = tuple(map(float, range(len(rates))))
        tips = tuple(f"{n}: {100 * r:.1f} %" for n, r in shown.point.block_rates.items())
        series.append(Marks(places, rates, style, label, tips=tips, joined=True, size=6))
    return Panel(
        tuple(series),
        x_label="block, in order of execution (grey: always runs)",
        y_label="share of images that run it",
        x_limits=(-0.7, len(names) - 0.3),
        y_limits=(-0.04, 1.06),
        whole_x=True,
    )


def _gradients(behaviour: Behaviour) -> Panel:
    first, of_dense = behaviour.points[0].point, behaviour.dense_gradients
    series: list[Series] = [Bars(*_by_place(first, of_dense), 0.8, GREY)]
    for shown, style in _styled(behaviour.points):
        own = _by_place(shown.point, shown.point.block_gradients)
        tips = tuple(f"{value:.2e}" for value in own[1])
        series.append(Marks(*own, style, tips=tips, joined=True, size=6))
    return Panel(
        tuple(series),
        x_label="block (bars: the dense network)",
        y_label="gradient, root mean square",
        x_limits=(-0.7, len(first.block_rates) - 0.3),
        y_limits=(0, None),
        whole_x=True,
        message="" if of_dense else "not on record",
    )


def _by_place(
    point: PointRecord, gradients: Mapping[str, float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the places of the blocks that have a gradient, and the gradients."""
    places = {name: float(n) for n, name in enumerate(point.block_rates) if name in gradients}
    return tuple(places.values()), tuple(gradients[name] for name in places)


def _costs(points: Sequence[PointBehaviour]) -> Panel:
    """Return the histograms of the cost of single images, and their means."""
    series: list[Series] = []
    for shown, style in _styled(points):
        share_n = shown.share_n
        if share_n is None:
            continue
        edges = np.linspace(0.0, max(1.0, float(share_n.max())), _BINS + 1)
        counts, _ = np.histogram(share_n, bins=edges)
        middles, width = (edges[1:] + edges[:-1]) / 2, float(edges[1] - edges[0])
        heights = tuple((counts / len(share_n)).tolist())
        series.append(Bars(tuple(middles.tolist()), heights, width, style.colour, 0.6))
        mean = float(share_n.mean())
        series.append(Line((mean, mean), (0, max(heights)), style.colour, dash="dashed"))
    return Panel(
        tuple(series),
        x_label="MACs per image / dense network",
        y_label="share of images",
        x_limits=(0, None),
        y_limits=(0, None),
        message="" if series else "not on record",
    )


def _difficulty(points: Sequence[PointBehaviour]) -> Panel:
    series: list[Series] = []
    for shown, style in _styled(points):
        if shown.by_difficulty is None:
            continue
        low, high, mean = (tuple(column.tolist()) for column in shown.by_difficulty.T)
        tenths = tuple(float(n) for n in range(1, len(mean) + 1))
        tips = tuple(f"tenth {n:.0f}: {value:.3f}" for n, value in zip(tenths, mean, strict=True))
        if len(points) > 1:  # their bars would cover each other
            low = high = ()
        series.append(Marks(tenths, mean, style, "", low, high, tips, joined=True, size=6))
    largest = [float(shown.share_n.max()) for shown in points if shown.share_n is not None]
    return Panel(
        tuple(series),
        x_label="tenth of the images, easiest to hardest",
        y_label="MACs per image / dense",
        # The same range for all networks: what hardly varies must not look like a trend.
        y_limits=(0, 1.04 * max([1.0, *largest])),
        whole_x=True,
        message="" if series else "not on record",
    )
