"""Time beside MACs, call by call: what the two latency figures show of each network.

Every number is relative to the dense network that was timed in the same rounds, so networks of
several commands fit on one pair of axes. Reads the arrays beside the records; owns no drawing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.errors import RecordError
from bench.plain_text import one_line
from bench.records.record import LatencyCell, RunRecord
from bench.report.data.row import Row, runtimes_of
from bench.report.data.rows import newest_cell, place_in_words
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
        """Whether this is the plain network itself, which the baseline stands for already."""
        return bool(self.row.dense)

    @property
    def nflops(self) -> float:
        return self.row.nflops or 0.0

    def beside(self, backbone: str) -> TimedNetwork | None:
        """Return the same with speed-ups over the dense network of another backbone, or None.

        None where no cell was timed in the same rounds as that network.
        """
        if backbone == self.backbone:
            return self
        cells = {
            size: cell.model_copy(update=dict(cell.others[backbone]))
            for size, cell in self.cells.items()
            if backbone in cell.others
        }
        return replace(self, cells=cells) if cells else None


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The timed calls of a network at batch 1: MACs and time, relative to the dense network."""

    network: TimedNetwork
    cell: LatencyCell
    macs_n: Shares
    time_n: Shares

    @property
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
        bins = self.bins
        taken = sum(b.calls * b.median for b in bins)
        return sum(b.calls * b.macs for b in bins) / taken


def timed_networks(study: Study) -> dict[str, list[TimedNetwork]]:
    """Return the operating points that were timed, by runtime."""
    points = {(r.run, one_line(p.name)): (r, p) for r in study.records for p in r.points}
    found: dict[str, list[TimedNetwork]] = {name: [] for name in runtimes_of(study.rows)}
    for row in study.rows:
        for runtime in row.runtimes:
            record, point = points[row.run, row.point or ""]
            sizes = sorted({cell.batch_size for cell in point.latency})
            newest = {size: newest_cell(point.latency, size, runtime) for size in sizes}
            cells = {
                size: cell
                for size, cell in newest.items()
                if cell is not None and cell.latency_ms is not None and cell.dense_ms is not None
            }
            if cells:
                network = TimedNetwork(row, runtime, record, point.arrays_file, cells)
                found[runtime].append(network)
    return {runtime: networks for runtime, networks in found.items() if networks}


def names_of(networks: Sequence[TimedNetwork]) -> list[str]:
    """Name each network of one method by what tells it from the others; nothing if it is alone.

    Settings, then the hash of the run, are in a name only where variant, recipe and seed are alike.
    """
    rows = [network.row for network in networks]
    words = [[*row.variant.split(), row.recipe, f"seed={row.seed}"] for row in rows]
    said = [{word.partition("=")[0] for word in own} for own in words]
    settings = [
        [item for item in row.settings if item.partition("=")[0] not in names]
        for row, names in zip(rows, said, strict=True)
    ]
    hashes = [[row.run.rpartition("-")[2]] for row in rows]
    for more in (settings, hashes):
        if len(set(map(tuple, words))) < len(words):
            words = [own + extra for own, extra in zip(words, more, strict=True)]
    common = set(words[0]).intersection(*words[1:]) if words else set()
    return [" ".join(word for word in dict.fromkeys(own) if word not in common) for own in words]


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
    if not _belong_together(image_n, ms_n, images=len(macs_n)) or macs_n.min() < 0:
        return None
    macs = macs_n[image_n].astype(np.float64) / record.dense_macs
    return Samples(network, cell, macs, ms_n.astype(np.float64) / cell.dense_ms)


def _belong_together(image_n: npt.NDArray[Any], ms_n: npt.NDArray[Any], *, images: int) -> bool:
    """Whether there is one time, longer than none, per call, and each call names an image."""
    whole = image_n.dtype.kind in "ui" and len(image_n) == len(ms_n)
    return whole and 0 <= image_n.min() <= image_n.max() < images and ms_n.min() > 0


def dense_networks(found: Sequence[Samples]) -> list[str]:
    """Return what 1 stands for on both axes, one line per machine setting."""
    spans: dict[tuple[str, float, str], list[float]] = defaultdict(list)
    for samples in found:
        row, cell = samples.network.row, samples.cell
        spans[row.backbone, row.dense_macs, place_in_words(cell)].append(cell.dense_ms or 0.0)
    lines = []
    for (backbone, macs, where), times in spans.items():
        ends = " to ".join(dict.fromkeys((f"{min(times):.2f}", f"{max(times):.2f}")))
        lines.append(f"dense {backbone}: {macs / 1e6:.1f} M MACs, {ends} ms ({where})")
    return lines
