"""Time against MACs as a chart: a panel per method, with the ideal line on which time is
proportional to MACs. Numbers come from calls.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from bench.plain_text import slug
from bench.report.data.row import place_in_words, runtimes_of
from bench.report.data.study import Study
from bench.report.figures.chart import (
    CONTENDED_NOTE,
    DAGGER,
    DENSE,
    GREY,
    Chart,
    Line,
    Marks,
    Panel,
    Series,
    mark_of,
)
from bench.report.latency.calls import TimedCalls, finding, timed_calls

_COLUMNS = 3
_FEWEST_CALLS = 5


def latency_charts(study: Study) -> dict[str, Chart]:
    """Return time against MACs on one data set in each runtime, by the name of the file."""
    charts: dict[str, Chart] = {}
    for runtime in runtimes_of(study.rows):
        found, missing = timed_calls(study, runtime)
        if any(not one.network.dense for one in found):
            charts[f"time-vs-macs-{slug(runtime)}"] = time_chart(found, without_calls=missing)
    return charts


def time_chart(found: Sequence[TimedCalls], *, without_calls: int = 0) -> Chart:
    """Return time per image against its executed MACs at batch 1, both relative to the dense net.

    A marker is the mean of all calls that cost as much, its bar their interquartile range.
    """
    by_panel: dict[tuple[str, str], list[TimedCalls]] = defaultdict(list)
    for one in sorted(found, key=lambda one: (one.network.first.method, one.point.nflops)):
        if not one.network.dense:
            by_panel[one.network.first.method, one.network.backbone].append(one)
    several = len({backbone for _, backbone in by_panel}) > 1
    shown = [b for one in found for b in one.bins if b.calls >= _FEWEST_CALLS]
    ideal: list[Series] = [
        Line((0, 9), (0, 9), GREY, dash="dashed"),
        Marks((1.0,), (1.0,), DENSE, size=6, tips=("the dense network",)),
    ]
    panels = [
        Panel(
            series=(*ideal, *_marks(members)),
            x_label="MACs / dense MACs",
            y_label="time / dense time",
            title=f"{method}, {backbone}" if several else method,
            x_limits=(0, 1.08 * max([1.0, *(b.macs for b in shown)])),
            y_limits=(0, 1.05 * max([1.05, *(b.high for b in shown)])),
        )
        for (method, backbone), members in by_panel.items()
    ]
    columns = min(_COLUMNS, max(1, len(panels)))
    return Chart(
        title=finding(found),
        panels=tuple(panels),
        notes=tuple(_notes(found, without_calls)),
        columns=columns,
        size_in=(9.6, 1.5 + 2.75 * -(-len(panels) // columns)),
        synthetic=any(one.network.first.synthetic for one in found),
    )


def _marks(members: Sequence[TimedCalls]) -> Iterator[Marks]:
    """Yield the lines of one panel, each named by the words that only some of its networks have and
    by its share of the ideal."""
    words = [one.name.replace(",", "").split() for one in members]
    common = set.intersection(*map(set, words))
    for place, (one, own) in enumerate(zip(members, words, strict=True)):
        bins = [b for b in one.bins if b.calls >= _FEWEST_CALLS]
        name = " ".join(word for word in own if word not in common)
        dagger = DAGGER if one.cell.contended else ""
        named = f"{name}{': ' if name else ''}{100 * one.realised:.0f} %{dagger}"
        tips = (f"{named}\n{b.calls} calls of {b.macs:.2f} MACs: {b.time:.2f}" for b in bins)
        macs, times, low, high, _ = zip(*bins, strict=True) if bins else ((),) * 5
        style = mark_of(place)
        yield Marks(macs, times, style, named, low, high, tuple(tips), joined=True, size=5)


def _notes(found: Sequence[TimedCalls], without_calls: int) -> Iterator[str]:
    where = " and ".join(sorted({one.cell.runtime for one in found}))
    yield (
        f"batch 1 in {where}; marker and bar: mean and middle half of the calls on images of that "
        "many MACs"
    )
    yield "dashed: time proportional to MACs, the ideal; percentages: speed-up / ideal speed-up"
    spans: dict[tuple[str, float, str], list[float]] = defaultdict(list)
    for one in found:
        row = one.network.first
        place = row.backbone, row.dense_macs, place_in_words(one.cell)
        spans[place].append(one.cell.dense_ms or 0.0)
    for (backbone, macs, machine), times in spans.items():
        ends = " to ".join(dict.fromkeys((f"{min(times):.2f}", f"{max(times):.2f}")))
        yield f"dense {backbone}: {macs / 1e6:.1f} M MACs, {ends} ms ({machine})"
    if any(one.cell.contended for one in found):
        yield CONTENDED_NOTE
    if without_calls:
        yield f"{without_calls} without timed calls at batch 1 on disk, left out"
