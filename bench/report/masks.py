"""The figure of what one run executes: the rate of each block, and the cost of each image.

Owns this drawing; the numbers come from the record and its arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ConfigError
from bench.plain_text import one_line
from bench.records.arrays import numbers_in
from bench.records.published import canonical_name
from bench.records.record import PointRecord, RunRecord
from bench.report.canvas import frame, literal, new_figure, stamp, wrapped
from bench.report.style import GREY, Style, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Arrays = Mapping[str, np.ndarray[Any, Any]]


@literal
def masks_figure(record: RunRecord, arrays: Mapping[str, Arrays]) -> Figure:
    """Return the execution rate per block and the histogram of cost per image, of all points.

    `arrays` maps the name of an operating point to its arrays; `macs_n` (N,) holds MACs per image.

    Raises:
        ConfigError: the run has no operating point, or matplotlib is not installed.
    """
    if not record.points:
        raise ConfigError(f"Run '{record.run}' has no operating point: it {record.status}.")
    figure = new_figure(9.0, 4.4)
    rates, costs = figure.subplots(1, 2)
    known = styles(point_label(point) for point in record.points)
    shade_fixed(rates, record.points[0])
    for point in record.points:
        style = known[canonical_name(point_label(point))]
        if len(record.points) == 1:
            draw_bars(rates, point, style)
        else:
            draw_line(rates, point, style)
        if point.name in arrays:
            macs_n = numbers_in(arrays[point.name], "macs_n", axes=1).astype(float)
            draw_costs(costs, macs_n / max(record.dense_macs, 1), style)
    frame(rates, "block, in order of execution (grey: always runs)", "share of images that run it")
    backbone = one_line(record.spec.backbone.name)
    frame(costs, f"MACs per image / dense {backbone}", "share of images")
    rates.set_ylim(-0.04, 1.06)
    rates.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(wrapped(masks_headline(record), 100), x=0.01, ha="left", fontsize=11)
    if len(record.points) > 1:
        handles = rates.get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=6, frameon=False)
    if record.synthetic:
        stamp(rates, "synthetic data")
    return figure


def masks_headline(record: RunRecord) -> str:
    """Return in one sentence how much of the network the run executes."""
    label = one_line(f"{record.spec.method} {record.variant}")
    over = f"over {record.test_images:,} test images"
    first, *more = record.points
    blocks = f"{_blocks(first):.1f} of {len(first.block_rates)} blocks"
    if more:
        others = ", ".join(f"{_blocks(point):.1f} at {point_label(point)}" for point in more)
        return f"{label} runs {blocks} on average at {point_label(first)}, {others}, {over}"
    masks = "1 mask" if first.distinct_masks == 1 else f"{first.distinct_masks:,} different masks"
    return f"{label} runs {blocks} on average, in {masks}, {over}"


def point_label(point: PointRecord) -> str:
    """Return what an operating point is called in a legend."""
    return one_line(point.name) or "the network"


def _blocks(point: PointRecord) -> float:
    return sum(point.block_rates.values())


def shade_fixed(axes: Axes, point: PointRecord) -> None:
    """Shade the blocks that always run."""
    for block, name in enumerate(point.block_rates):
        if name not in point.gated_blocks:
            axes.axvspan(block - 0.5, block + 0.5, color=GREY, alpha=0.15, linewidth=0)


def draw_bars(axes: Axes, point: PointRecord, style: Style) -> None:
    """Draw the execution rate of each block as bars."""
    axes.bar(range(len(point.block_rates)), list(point.block_rates.values()), color=style.colour)
    for block, name in enumerate(point.block_rates):
        if name in point.dead_blocks:
            axes.text(block, 0.02, "never", ha="center", va="bottom", rotation=90, fontsize=8)


def draw_line(axes: Axes, point: PointRecord, style: Style) -> None:
    """Draw the execution rate of each block as a line, where several points share the axes."""
    axes.plot(
        range(len(point.block_rates)),
        list(point.block_rates.values()),
        marker=style.mark,
        color=style.colour,
        linewidth=1.2,
        label=point_label(point),
    )


def draw_costs(axes: Axes, share_n: np.ndarray[Any, Any], style: Style) -> None:
    """Draw the histogram of the cost of single images, and its mean."""
    edges = np.linspace(0.0, max(1.0, float(share_n.max())), 41)
    weights = np.full(len(share_n), 1 / len(share_n))
    axes.hist(share_n, bins=edges.tolist(), weights=weights, color=style.colour, alpha=0.6)
    axes.axvline(float(share_n.mean()), color=style.colour, linewidth=1.5, linestyle="--")
