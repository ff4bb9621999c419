"""The timed calls of networks beside the MACs of the images that they ran.

Every number is relative to the dense network that was timed in the same rounds, so networks of
several commands fit on one pair of axes. Owns no drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.errors import RecordError
from bench.measure.latency.statistics import expected_ms
from bench.plain_text import one_line
from bench.records.record import LatencyCell, PointRecord, RunRecord
from bench.report.data.rows import newest_cell
from bench.report.data.study import Network, Study

Shares = npt.NDArray[np.float64]

_SAME_COST = 1e-3
_DISTINCT = 12
_BINS = 8


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
    def realised(self) -> float:
        return (self.cell.speedup or 0.0) * self.point.nflops

    @property
    def name(self) -> str:
        """Network, operating point and recipe, as words."""
        return f"{self.network.label} {one_line(self.point.name)} {self.network.first.recipe}"

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
        f"{100 * one.realised:.0f} % ({one.network.first.method})" for one in (ends[0], ends[-1])
    )
    slower = sum(one.cell.verdict == "slower" for one in cheaper)
    count = f"{slower} of {len(cheaper)}" if slower else "none"
    return (
        f"Networks run at {' to '.join(said)} of the speed that their MACs promise; "
        f"{count} that save MACs {'are' if slower > 1 else 'is'} slower than the dense network"
    )
