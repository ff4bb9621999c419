"""The figure of README.md: accuracy against measured time at batch 1, of all operating points of
the settings in the table beside it, and of the static networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.records.store import RunStore
from bench.report.data.rows import rows as rows_of
from bench.report.figures.chart import DENSE, Chart, Label, Line, Marks, Panel, mark_of
from bench.report.figures.draw import write_chart
from bench.report.verdicts.tables import best_settings, fastest_runtime
from bench.report.verdicts.verdicts import MethodVerdict
from bench.report.verdicts.words import finding

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference"
_ROOM = 3.0
"""Points of accuracy that the figure shows below the static networks."""
_SLOWEST = 2.2
"""Times the largest static network's time, up to which the figure reaches."""
_KINDS = ("methods", "controls")

Place = tuple[float, float]
"""Time relative to the largest static network, and accuracy in %."""


def draw_figure(
    verdicts: Sequence[MethodVerdict], target: Path = ROOT / "docs" / "figures" / "readme.png"
) -> None:
    """Draw the best settings that were timed; several seeds as their mean."""
    runtime = fastest_runtime(verdicts)
    rows = timed(runtime)
    statics = static_networks(rows)
    labels, floor = dict(statics), min(y for _, y in statics.values()) - _ROOM
    marks, below, slower, named = [], [], [], set[str]()
    for one in best_settings(verdicts):
        runs = {record.run for record in one.network.records}
        places = places_of(rows[rows.run.isin(runs)], by="point")
        if not places:
            continue
        kind = _KINDS[one.network.control]
        times, accuracies = zip(*sorted(places.values()), strict=True)
        style, name = mark_of(_KINDS.index(kind)), "" if kind in named else kind
        marks.append(Marks(times, accuracies, style, name, joined=len(times) > 1))
        named.add(kind)
        inside = [place for place in sorted(places.values()) if place[0] <= _SLOWEST]
        shown = [place for place in inside if place[1] >= floor]
        if shown:
            labels[one.method] = shown[0]
        if len(shown) < len(inside):
            below.append(one.method)
        slower += [
            f"{one.method} ({accuracy:.1f} % at {time:.1f})"
            for time, accuracy in places.values()
            if time > _SLOWEST
        ]
    times, accuracies = zip(*statics.values(), strict=True)
    line = Line(times, accuracies, DENSE.colour)
    static = Marks(times, accuracies, DENSE, "static networks")
    largest = max(statics, key=lambda name: statics[name])
    panel = Panel(
        (line, static, *marks),
        x_label=f"time per image at batch 1, {runtime}, relative to {largest}",
        y_label="test accuracy, %",
        x_limits=(None, _SLOWEST if slower else None),
        y_limits=(floor if below else None, None),
        labels=tuple(Label(*place, name) for name, place in labels.items()),
    )
    title = finding(verdicts, verdicts[0].on("time at batch 1", runtime).axis)
    outside = {"cheaper operating points below the view": below, "slower than the view": slower}
    notes = (f"{where}: {', '.join(names)}" for where, names in outside.items() if names)
    chart = Chart(title, (panel,), tuple(notes), size_in=(9.6, 5.2))
    write_chart(chart, target)


def timed(runtime: str) -> pd.DataFrame:
    """Return the reference points timed in a runtime, with their time at batch 1 relative to the
    largest static network as `time`."""
    keys = ("run", "point", "backbone", "dense", "dense_macs", "accuracy")
    found = pd.DataFrame(
        [
            {key: getattr(row, key) for key in keys} | {"time": cell.latency_ms}
            for row in rows_of(RunStore(REFERENCE).load_all().records)
            if (cell := row.timing(1, runtime)) and cell.latency_ms
        ]
    )
    dense = found[found.dense.eq(True)]
    unit = dense[dense.dense_macs == dense.dense_macs.max()].time.median()
    return found.assign(time=found.time / unit)


def static_networks(rows: pd.DataFrame) -> dict[str, Place]:
    """Return the static networks by backbone, the fastest first."""
    found = places_of(rows[rows.dense.eq(True)], by="backbone")
    return dict(sorted(found.items(), key=lambda one: one[1]))


def places_of(rows: pd.DataFrame, *, by: str) -> dict[str, Place]:
    """Return the means of time and accuracy of each group of rows."""
    means = rows.groupby(by)[["time", "accuracy"]].mean()
    return {
        str(name): (float(row.time), 100 * float(row.accuracy)) for name, row in means.iterrows()
    }
