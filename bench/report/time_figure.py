"""The figure of time against MACs: does an image that runs less also take less time?

One panel per method, the same axes in all of them, and the ideal line on which time is
proportional to MACs. What is drawn comes from saving.py; this module only draws.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.report.canvas import frame, literal, new_figure, stamp, wrapped, write_notes
from bench.report.saving import Samples, dense_networks, names_of
from bench.report.style import CONTENDED_NOTE, DAGGER, DENSE, GREY, mark_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3
_FEWEST_CALLS = 5
_WIDE = 22


@literal
def time_figure(found: Sequence[Samples], *, without_samples: int = 0) -> Figure:
    """Return time per image against its executed MACs at batch 1, both relative to the dense net.

    A marker is the median of all calls that cost as much, its bar their interquartile range.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    panels = _panels(found)
    lines = max(1, math.ceil(len(panels) / _COLUMNS))
    columns = min(_COLUMNS, max(1, len(panels)))
    figure = new_figure(9.6, 1.5 + 2.75 * lines)
    axes_lc = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    every = list(axes_lc.flat)
    for axes, (name, members) in zip(every, panels.items(), strict=False):
        _draw_panel(axes, name, members)
    _limit(every[0], found)
    _name_lines(every[0])
    for axes in every[len(panels) :]:
        axes.axis("off")
    _name_axes(every, len(panels), columns=columns)
    if any(samples.network.row["synthetic"] for samples in found):
        stamp(every[0], "synthetic data")
    figure.suptitle(wrapped(headline(found), 104), x=0.01, ha="left", fontsize=12)
    write_notes(figure, _notes(found, without_samples))
    return figure


def headline(found: Sequence[Samples]) -> str:
    """Return the finding: how much of the speed that MACs promise the cheaper networks reach."""
    cheaper = [s for s in found if s.network.nflops < 1 and not s.network.dense]
    if not cheaper:
        return "No network that saves MACs was timed at batch 1"
    least = min(cheaper, key=lambda samples: samples.realised)
    most = max(cheaper, key=lambda samples: samples.realised)
    span = _reached(least) if least is most else f"{_reached(least)} to {_reached(most)}"
    slower = sum(samples.cell.verdict == "slower" for samples in cheaper)
    count = f"{slower} of {len(cheaper)}" if slower else "none"
    are = "are" if slower > 1 else "is"
    return (
        f"Networks run at {span} of the speed that their MACs promise; "
        f"{count} that save MACs {are} slower than the dense network"
    )


def _reached(samples: Samples) -> str:
    return f"{percent(samples.realised)} ({samples.network.row['method']})"


def percent(share: float) -> str:
    """Return a share in whole percent."""
    return f"{100 * share:.0f} %"


def _panels(found: Sequence[Samples]) -> dict[str, list[Samples]]:
    backbones = {samples.network.row["backbone"] for samples in found}
    panels: dict[str, list[Samples]] = defaultdict(list)
    for samples in sorted(found, key=lambda s: (s.network.row["method"], s.network.nflops)):
        if not samples.network.dense:
            row = samples.network.row
            where = f", {row['backbone']}" if len(backbones) > 1 else ""
            panels[f"{row['method']}{where}"].append(samples)
    return dict(panels)


def _draw_panel(axes: Axes, name: str, members: Sequence[Samples]) -> None:
    frame(axes, "", "")
    axes.plot([0, 9], [0, 9], color=GREY, linewidth=1.2, linestyle="--", zorder=1)
    axes.plot([1], [1], DENSE.mark, color=DENSE.colour, markersize=6, zorder=2)
    labels = _labels(members)
    for number, samples in enumerate(members):
        _draw_samples(axes, samples, label=labels[number], number=number)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=2 if max(map(len, labels)) < _WIDE else 1,
        title=name,
        alignment="left",
        frameon=False,
        fontsize=8,
        title_fontproperties={"weight": "bold", "size": 10},
        borderaxespad=0.2,
        borderpad=0.1,
        handlelength=1.5,
        handletextpad=0.4,
        columnspacing=1.0,
        labelspacing=0.25,
    )


def _labels(members: Sequence[Samples]) -> list[str]:
    """Name each line by what tells it from the others, with its share of the ideal."""
    names = names_of([samples.network for samples in members])
    return [
        f"{name}{': ' if name else ''}{percent(samples.realised)}"
        + (DAGGER if samples.cell.contended else "")
        for name, samples in zip(names, members, strict=True)
    ]


def _draw_samples(axes: Axes, samples: Samples, *, label: str, number: int) -> None:
    bins = [b for b in samples.bins if b.calls >= _FEWEST_CALLS]
    style = mark_of(number)
    medians = [b.median for b in bins]
    axes.errorbar(
        [b.macs for b in bins],
        medians,
        yerr=[
            [b.median - b.low for b in bins],
            [b.high - b.median for b in bins],
        ],
        fmt=f"{style.mark}-",
        color=style.colour,
        markersize=5,
        linewidth=1.0,
        elinewidth=1.0,
        capsize=2,
        zorder=3,
        label=label,
    )


def _limit(axes: Axes, found: Sequence[Samples]) -> None:
    shown = [b for samples in found for b in samples.bins if b.calls >= _FEWEST_CALLS]
    axes.set_xlim(0, 1.08 * max([1.0, *(b.macs for b in shown)]))
    axes.set_ylim(0, 1.05 * max([1.05, *(b.high for b in shown)]))


def _name_lines(axes: Axes) -> None:
    # Below the ideal line there is room: hardly a network is faster than its MACs allow.
    for text, place, offset in (("ideal", 0.45, (6, -4)), ("dense", 1.0, (2, -6))):
        axes.annotate(
            text,
            (place, place),
            xytext=offset,
            textcoords="offset points",
            va="top",
            fontsize=8,
            color="#444444",
        )


def _name_axes(every: Sequence[Axes], panels: int, *, columns: int) -> None:
    for number, axes in enumerate(every[:panels]):
        if number % columns == 0:
            axes.set_ylabel("time / dense time")
        if number + columns >= panels:
            axes.set_xlabel("MACs / dense MACs")
            axes.tick_params(labelbottom=True)


def _notes(found: Sequence[Samples], without_samples: int) -> list[str]:
    notes = [
        "batch 1; marker and bar: median and middle half of the calls on images of that many MACs",
        "ideal: time proportional to MACs; percentages: ideal time / time taken, over all images",
        *dense_networks(found),
    ]
    if any(samples.cell.contended for samples in found):
        notes.append(CONTENDED_NOTE)
    if without_samples:
        notes.append(f"{without_samples} without timed calls at batch 1 on disk, left out")
    return notes
