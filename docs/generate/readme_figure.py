"""The figure of README.md: accuracy against measured time at batch 1, of the settings in the table
beside it and of the static networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import bench
from bench.analysis.verdict import Comparison, Outside
from bench.report.figures.chart import Chart, Label, Legend, Line, Marks, Panel
from bench.report.figures.draw import write_chart
from bench.report.figures.style import DENSE, mark_of
from bench.report.verdicts.tables import best_settings
from bench.report.verdicts.verdicts import MethodVerdict
from bench.report.verdicts.words import finding

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference"
_ROOM = 8.0
"""Points of accuracy that the figure shows below the static networks."""


def draw_figure(
    verdicts: Sequence[MethodVerdict], target: Path = ROOT / "docs" / "figures" / "readme.png"
) -> None:
    """Draw the best settings whose time was compared."""
    statics, best = static_networks(), best_settings(verdicts)
    labels, marks = dict(statics), []
    for number, (control, name) in enumerate(((False, "methods"), (True, "controls"))):
        mine = [one for one in best if one.network.control is control]
        compared = {one.method: f for one in mine if (f := one.axes[1].found) is not None}
        labels |= {method: _place(found) for method, found in compared.items()}
        marks.append(_marks(list(compared.values()), number, name))
    times, accuracies = zip(*statics.values(), strict=True)
    floor = min(accuracies) - _ROOM
    below = ", ".join(f"{name} ({y:.1f} %)" for name, (_, y) in labels.items() if y < floor)
    line = Line(times, accuracies, DENSE.colour)
    static = Marks(times, accuracies, DENSE, "static networks")
    panel = Panel(
        (line, static, *marks),
        x_label="time per image at batch 1, relative to ResNet-32",
        y_label="test accuracy, %",
        y_limits=(floor if below else None, None),
        labels=tuple(Label(*place, name) for name, place in labels.items() if place[1] >= floor),
    )
    legend = Legend("best setting of each", ("static networks", "methods", "controls"))
    title = finding(verdicts, verdicts[0].axes[1].axis)
    notes = (f"below the view: {below}",) if below else ()
    chart = Chart(title, (panel,), notes, legends=(legend,), size_in=(9.6, 5.2))
    write_chart(chart, target)


def static_networks() -> dict[str, tuple[float, float]]:
    """Return time relative to the largest, and accuracy in %, of each backbone's best training."""
    rows = bench.load_results(REFERENCE)
    dense = rows[rows.dense.eq(True) & rows.latency_ms_b1.notna()]
    unit = dense[dense.dense_macs == dense.dense_macs.max()].latency_ms_b1.median()
    found = {
        str(backbone): (float(own.latency_ms_b1.median() / unit), 100 * float(own.accuracy.max()))
        for backbone, own in dense.groupby("backbone")
    }
    return dict(sorted(found.items(), key=lambda one: one[1]))


def _place(found: Comparison | Outside) -> tuple[float, float]:
    return sum(found.costs) / 2, 100 * found.accuracy


def _marks(compared: Sequence[Comparison | Outside], number: int, name: str) -> Marks:
    """Return the networks, with the interval of their gain as bars."""
    xs, ys = zip(*map(_place, compared), strict=True)
    gains = [found.gain for found in compared]
    low, high = (
        tuple(y + 100 * (g.bounds[end] - g.value) for y, g in zip(ys, gains, strict=True))
        for end in (0, 1)
    )
    return Marks(xs, ys, mark_of(number), name, low, high)
