"""Time against MACs: the timed calls of networks beside the MACs of the images that they ran.

Every number is relative to the dense network that was timed in the same rounds, so networks of
several commands fit on one pair of axes. A panel per method, with the ideal line on which time is
proportional to MACs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.errors import RecordError
from bench.measure.latency.statistics import expected_ms
from bench.plain_text import one_line, slug
from bench.records.record import LatencyCell, PointRecord, RunRecord
from bench.report.data.row import place_in_words, runtimes_of
from bench.report.data.rows import newest_cell
from bench.report.data.study import Network, Study
from bench.report.figures.chart import (
    CONTENDED_NOTE,
    DAGGER,
    DENSE,
    GREY,
    Chart,
    Line,
    Marks,
    Panel,
    mark_of,
)

Shares = npt.NDArray[np.float64]

_SAME_COST = 1e-3
_DISTINCT, _BINS = 12, 8
_COLUMNS = 3
_FEWEST_CALLS = 5


class Bin(NamedTuple):
    """The calls of one cost: their MACs and expected time relative to the dense network's, and the
    quartiles of their times, or that mean where it lies outside."""

    macs: float
    time: float
    low: float
    high: float
    calls: int


@dataclass(frozen=True, eq=False)
class TimedCalls:
    """The calls at batch 1 of one operating point, of the first seed of its network.

    `macs_n` and `time_n` (calls,) are relative to the dense network; `realised` is the speed-up
    over the ideal one, 1 / nFLOPs, as in the tables.
    """

    network: Network
    point: PointRecord
    cell: LatencyCell
    macs_n: Shares
    time_n: Shares

    @property
    def method(self) -> str:
        return self.network.first.method

    @property
    def realised(self) -> float:
        return (self.cell.speedup or 0.0) * self.point.nflops

    @property
    def words(self) -> list[str]:
        """Network, operating point and recipe."""
        said = f"{self.network.label} {one_line(self.point.name)} {self.network.first.recipe}"
        return said.replace(",", "").split()

    @cached_property
    def bins(self) -> list[Bin]:
        """The calls by distinct cost; in eight parts of equal size where costs are many."""
        order = np.argsort(self.macs_n, kind="stable")
        rises = np.flatnonzero(np.diff(np.round(self.macs_n[order] / _SAME_COST))) + 1
        parts = np.split(order, rises) if len(rises) < _DISTINCT else np.array_split(order, _BINS)
        return [_bin(float(self.macs_n[part].mean()), self.time_n[part]) for part in parts]


def _bin(macs: float, time_n: Shares) -> Bin:
    low, high = (float(end) for end in np.quantile(time_n, (0.25, 0.75)))
    mean = expected_ms(time_n)  # may lie beside the middle half of the calls
    return Bin(macs, mean, min(low, mean), max(high, mean), len(time_n))


def timed_calls(study: Study, runtime: str) -> tuple[list[TimedCalls], int]:
    """Return the calls at batch 1 in a runtime, and of how many timed operating points none are on
    disk."""
    found, missing = [], 0
    for network in study.networks:
        for record, point in network.points[0]:
            cell = newest_cell(point.latency, 1, runtime)
            if cell is None or cell.latency_ms is None:
                continue
            try:
                macs_n, time_n = _calls(record, point, cell, study)
                found.append(TimedCalls(network, point, cell, macs_n, time_n))
            except RecordError:
                missing += 1
    return found, missing


def _calls(
    record: RunRecord, point: PointRecord, cell: LatencyCell, study: Study
) -> tuple[Shares, Shares]:
    """Return MACs and time of each call relative to the dense network, both (calls,).

    Raises:
        RecordError: they are not on record, or do not fit each other.
    """
    if not cell.dense_ms or not cell.speedup or not record.dense_macs:
        raise RecordError("timed without a dense network in the same rounds")
    macs_n = study.numbers(record, point.arrays_file, "macs_n", axes=1)
    image_n = study.numbers(record, cell.raw_file, "image_nb", axes=2)[:, 0]
    ms_n = study.numbers(record, cell.raw_file, "ms_n", axes=1)
    named = image_n.dtype.kind in "ui" and 0 <= image_n.min() <= image_n.max() < len(macs_n)
    if not named or len(image_n) != len(ms_n) or ms_n.min() <= 0 or macs_n.min() < 0:
        raise RecordError("calls and images do not fit each other")
    macs = macs_n[image_n].astype(np.float64) / record.dense_macs
    return macs, ms_n.astype(np.float64) / cell.dense_ms


def finding(found: Sequence[TimedCalls]) -> str:
    """Return how much of the speed that MACs promise the cheaper networks reach, in one
    sentence."""
    cheaper = [one for one in found if one.point.nflops < 1 and not one.network.dense]
    if not cheaper:
        return "No network that saves MACs was timed at batch 1"
    ends = sorted(cheaper, key=lambda one: one.realised)
    said = dict.fromkeys(
        f"{100 * one.realised:.0f} % ({one.method})" for one in (ends[0], ends[-1])
    )
    slower = sum(one.cell.verdict == "slower" for one in cheaper)
    count = f"{slower} of {len(cheaper)}" if slower else "none"
    return (
        f"Networks run at {' to '.join(said)} of the speed that their MACs promise; "
        f"{count} that save MACs {'are' if slower > 1 else 'is'} slower than the dense network"
    )


def latency_charts(study: Study) -> dict[str, Chart]:
    """Return time against MACs on one data set in each runtime, by the name of the file."""
    charts: dict[str, Chart] = {}
    for runtime in runtimes_of(study.rows):
        found, missing = timed_calls(study, runtime)
        if any(not one.network.dense for one in found):
            charts[f"time-vs-macs-{slug(runtime)}"] = time_chart(found, without_calls=missing)
    return charts


def time_chart(found: Sequence[TimedCalls], *, without_calls: int) -> Chart:
    """Return time per image against its executed MACs at batch 1, both relative to the dense net.

    A marker is the mean of all calls that cost as much, its bar their interquartile range.
    """
    by_panel: dict[str, list[TimedCalls]] = defaultdict(list)
    for one in sorted(found, key=lambda one: (one.method, one.point.nflops)):
        if not one.network.dense:
            by_panel[f"{one.method}, {one.network.backbone}"].append(one)
    shown = [b for one in found for b in one.bins if b.calls >= _FEWEST_CALLS]
    ideal = Line((0, 9), (0, 9), GREY, dash="dashed")
    dense = Marks((1.0,), (1.0,), DENSE, size=6, tips=("the dense network",))
    panels = [
        Panel(
            series=(ideal, dense, *_marks(members)),
            x_label="MACs / dense MACs",
            y_label="time / dense time",
            title=title,
            x_limits=(0, 1.08 * max([1.0, *(b.macs for b in shown)])),
            y_limits=(0, 1.05 * max([1.05, *(b.high for b in shown)])),
        )
        for title, members in by_panel.items()
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
    common = set.intersection(*(set(one.words) for one in members))
    for place, one in enumerate(members):
        bins = [b for b in one.bins if b.calls >= _FEWEST_CALLS]
        name = " ".join(word for word in one.words if word not in common)
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
    dense_ms: dict[str, list[float]] = defaultdict(list)
    for one in found:
        where = f"{one.network.backbone} ({place_in_words(one.cell)})"
        dense_ms[where].append(one.cell.dense_ms or 0.0)
    spans = (f"{where} {min(ms):.2f} to {max(ms):.2f} ms" for where, ms in dense_ms.items())
    yield f"time of the dense network, by round: {'; '.join(spans)}"
    if any(one.cell.contended for one in found):
        yield CONTENDED_NOTE
    if without_calls:
        yield f"{without_calls} without timed calls at batch 1 on disk, left out"
