"""The figure of ranks: networks by MACs in the middle, by time at its sides.

A line that rises from the MACs to the time belongs to a network that is slower than its MACs say;
those beyond doubt are coloured. Who they are is ranks.py's business; this module only draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from bench.report.canvas import literal, new_figure, stamp, wrapped, write_notes
from bench.report.ranks import Ranked, Ranking, headline
from bench.report.style import CONTENDED_NOTE, DAGGER, DENSE, GREY, mark_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SLOW = mark_of(1)
_ROW_IN = 0.27
_Side = Literal["left", "right"]


@literal
def rank_figure(ranking: Ranking) -> Figure:
    """Return the ranks by MACs and by time at each batch size, crossings in colour.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    figure = new_figure(9.6, 2.0 + _ROW_IN * len(ranking.networks))
    axes = figure.subplots()
    middle = ranking.by_macs
    sides: list[tuple[int, _Side, float]] = [(ranking.batch_sizes[0], "left", -1.0)]
    if len(ranking.batch_sizes) > 1:
        sides.append((ranking.batch_sizes[-1], "right", 1.0))
    for batch_size, side, x in sides:
        _draw_side(axes, ranking, batch_size, x=x)
        _name_ends(axes, ranking, batch_size, side=side, x=x)
    for rank, network in enumerate(middle):
        _name_middle(axes, network, rank, alone=len(sides) == 1)
    _finish(axes, len(middle), right=sides[-1][2], sizes=[(size, x) for size, _, x in sides])
    if ranking.synthetic:
        stamp(axes, "synthetic data")
    figure.suptitle(wrapped(headline(ranking), 104), x=0.01, ha="left", fontsize=12)
    write_notes(figure, _notes(ranking))
    return figure


def _draw_side(axes: Axes, ranking: Ranking, batch_size: int, *, x: float) -> None:
    slow = ranking.slow_for_their_macs(batch_size)
    place = {network.name: rank for rank, network in enumerate(ranking.by_time(batch_size))}
    for rank, network in enumerate(ranking.by_macs):
        colour, width, order = _look(network, slow)
        axes.plot(
            [0, x],
            [rank, place[network.name]],
            color=colour,
            linewidth=width,
            marker=_SLOW.mark if network.name in slow else "o",
            markersize=5,
            zorder=order,
            solid_capstyle="round",
        )


def _look(network: Ranked, slow: set[str]) -> tuple[str, float, int]:
    if network.dense:
        return DENSE.colour, 2.0, 3
    return (_SLOW.colour, 2.2, 4) if network.name in slow else (GREY, 1.0, 2)


def _name_ends(axes: Axes, ranking: Ranking, batch_size: int, *, side: _Side, x: float) -> None:
    slow = ranking.slow_for_their_macs(batch_size)
    for rank, network in enumerate(ranking.by_time(batch_size)):
        ratio, interval = network.speedups[batch_size]
        mark = DAGGER if batch_size in network.contended else ""
        spread = "" if network.dense else f" [{1 / interval.high:.2f}, {1 / interval.low:.2f}]"
        axes.annotate(
            f"{network.name}   {1 / ratio:.2f}{spread}{mark}",
            (x, rank),
            xytext=(-8 if side == "left" else 8, 0),
            textcoords="offset points",
            ha="right" if side == "left" else "left",
            va="center",
            fontsize=8,
            color=_look(network, slow)[0] if network.name in slow or network.dense else "#333333",
            weight="bold" if network.name in slow else "normal",
        )


def _name_middle(axes: Axes, network: Ranked, rank: int, *, alone: bool) -> None:
    name = f"{network.nflops:.2f}   {network.name}" if alone else f"{network.nflops:.2f}"
    axes.annotate(
        name,
        (0, rank),
        xytext=(8 if alone else 0, 0),
        textcoords="offset points",
        ha="left" if alone else "center",
        va="center",
        fontsize=8,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"},
        zorder=6,
    )


def _finish(axes: Axes, count: int, *, right: float, sizes: Sequence[tuple[int, float]]) -> None:
    axes.set_ylim(count - 0.5, -1.6)
    axes.set_xlim(-1.05, max(right, 0.0) + 0.05)
    axes.axis("off")
    heads = [
        (0.0, "MACs / dense MACs"),
        *((x, f"time / dense time, batch {size}") for size, x in sizes),
    ]
    for x, text in heads:
        ha = "center" if x == 0 and right > 0 else "right" if x < 0 else "left"
        shift = {"center": 0, "right": -8, "left": 8}[ha]
        axes.annotate(
            text,
            (x, -1.1),
            xytext=(shift, 0),
            textcoords="offset points",
            ha=ha,
            va="center",
            fontsize=9,
            weight="bold",
        )


def _notes(ranking: Ranking) -> list[str]:
    notes = [
        "top: fewest MACs, fastest; triangles: slower than a network with at least 1 % more MACs",
        "an order counts only where the 95 % intervals of the two times do not overlap",
        f"{ranking.machine}; all networks timed in the same rounds",
    ]
    if any(network.contended for network in ranking.networks):
        notes.append(CONTENDED_NOTE)
    if ranking.left_out:
        what = "1 network" if ranking.left_out == 1 else f"{ranking.left_out} networks"
        notes.append(f"{what} timed by other commands, left out: no common rounds")
    return notes
