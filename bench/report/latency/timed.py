"""Time beside MACs, call by call: what the two latency figures show of each network.

Every number is relative to the dense network that was timed in the same rounds, so networks of
several commands fit on one pair of axes. Reads the arrays beside the records; owns no drawing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.errors import RecordError
from bench.plain_text import one_line
from bench.records.record import LatencyCell, RunRecord
from bench.report.data.row import Row, runtimes_of
from bench.report.data.rows import newest_cell
from bench.report.data.study import Study

Shares = npt.NDArray[np.float64]

_SAME_COST = 1e-3
_DISTINCT = 12
_BINS = 8


class Bin(NamedTuple):
    """The calls of one cost: their MACs and time relative to the dense network's."""

    macs: float
    median: float
    low: float
    high: float
    calls: int


@dataclass(frozen=True, slots=True)
class TimedNetwork:
    """One operating point with its newest cell per batch size that was timed in one runtime.

    `dense_ms` of a cell is the median of the dense network in the same rounds; two cells that
    share it were timed together.
    """

    row: Row
    name: str
    runtime: str
    record: RunRecord
    arrays_file: str
    cells: dict[int, LatencyCell]

    @property
    def backbone(self) -> str:
        """The label of the backbone."""
        return self.record.spec.backbone.label

    @property
    def dense(self) -> bool:
        return bool(self.row.dense)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The smallest and the largest batch size with a paired speed-up."""
        known = [size for size, cell in self.cells.items() if cell.speedup_interval is not None]
        return tuple(sorted({min(known), max(known)})) if known else ()

    def beside(self, backbone: str) -> TimedNetwork | None:
        """Return the same with speed-ups over the dense network of another backbone; None where no
        cell was timed in the same rounds as that network."""
        if backbone == self.backbone:
            return self
        cells = {
            size: cell.model_copy(update=dict(cell.others[backbone]))
            for size, cell in self.cells.items()
            if backbone in cell.others
        }
        return replace(self, cells=cells) if cells else None


@dataclass(frozen=True, eq=False)
class Samples:
    """The timed calls of a network at batch 1: MACs and time, relative to the dense network."""

    network: TimedNetwork
    cell: LatencyCell
    macs_n: Shares
    time_n: Shares

    @cached_property
    def bins(self) -> list[Bin]:
        """The calls by distinct cost; in eight parts of equal size where costs are many."""
        found: dict[float, list[int]] = defaultdict(list)
        for position, cost in enumerate(np.round(self.macs_n / _SAME_COST)):
            found[float(cost)].append(position)
        parts = [np.array(found[cost]) for cost in sorted(found)]
        if len(found) > _DISTINCT:
            parts = list(np.array_split(np.argsort(self.macs_n, kind="stable"), _BINS))
        means = [float(self.macs_n[part].mean()) for part in parts]
        quartiles = [np.quantile(self.time_n[part], (0.25, 0.5, 0.75)).tolist() for part in parts]
        return [
            Bin(mean, median, low, high, len(part))
            for part, mean, (low, median, high) in zip(parts, means, quartiles, strict=True)
        ]

    @property
    def realised(self) -> float:
        """The time that MACs promise / the time taken, image by image; 1 is ideal.

        Of each cost the median time counts, as often as the cost occurred: an interrupted call
        weighs nothing, and easy images are compared with what easy images promise.
        """
        promised = sum(b.calls * b.macs for b in self.bins)
        return promised / sum(b.calls * b.median for b in self.bins)


def timed_networks(study: Study) -> dict[str, list[TimedNetwork]]:
    """Return the operating points that were timed, by runtime."""
    points = {(r.run, one_line(p.name)): (r, p) for r in study.records for p in r.points}
    found: dict[str, list[TimedNetwork]] = defaultdict(list)
    for runtime, row in product(runtimes_of(study.rows), study.rows):
        if (row.run, row.point or "") not in points:
            continue
        record, point = points[row.run, row.point or ""]
        sizes = sorted({cell.batch_size for cell in point.latency})
        newest = ((size, newest_cell(point.latency, size, runtime)) for size in sizes)
        cells = {n: c for n, c in newest if c and None not in (c.latency_ms, c.dense_ms)}
        if cells:
            name = study.names.get((row.run, row.point), row.method)
            network = TimedNetwork(row, name, runtime, record, point.arrays_file, cells)
            found[runtime].append(network)
    return dict(found)


def samples_of(networks: Sequence[TimedNetwork], study: Study) -> tuple[list[Samples], int]:
    """Return the calls at batch 1 of the networks that have them, and how many have none."""
    found = [_samples(network, study) for network in networks]
    known = [samples for samples in found if samples is not None]
    return known, len(networks) - len(known)


def _samples(network: TimedNetwork, study: Study) -> Samples | None:
    cell, record = network.cells.get(1), network.record
    if cell is None or not cell.dense_ms or not record.dense_macs:
        return None
    try:
        macs_n = study.numbers(record, network.arrays_file, "macs_n", axes=1)
        image_n = study.numbers(record, cell.raw_file, "image_nb", axes=2)[:, 0]
        ms_n = study.numbers(record, cell.raw_file, "ms_n", axes=1)
    except RecordError:
        return None
    # One time, longer than none, per call, and each call names an image.
    named = image_n.dtype.kind in "ui" and 0 <= image_n.min() <= image_n.max() < len(macs_n)
    if not named or len(image_n) != len(ms_n) or ms_n.min() <= 0 or macs_n.min() < 0:
        return None
    macs = macs_n[image_n].astype(np.float64) / record.dense_macs
    return Samples(network, cell, macs, ms_n.astype(np.float64) / cell.dense_ms)
