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
from bench.records.arrays import numbers_in, read_arrays
from bench.records.record import LatencyCell, PointRecord, RunRecord
from bench.records.store import RunStore
from bench.report.data.row import Row, runtimes_of
from bench.report.data.rows import newest_cell, threads_in_words

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
    share it were timed together. `backbone` is the label of the backbone.
    """

    row: Row
    runtime: str
    backbone: str
    arrays_file: str
    cells: dict[int, LatencyCell]

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
        return [self._bin(part) for part in _parts(self.macs_n)]

    def _bin(self, part: npt.NDArray[np.intp]) -> Bin:
        median, low, high = np.quantile(self.time_n[part], (0.5, 0.25, 0.75))
        return Bin(
            float(self.macs_n[part].mean()), float(median), float(low), float(high), len(part)
        )

    @property
    def realised(self) -> float:
        """The time that MACs promise / the time taken, image by image; 1 is ideal.

        Of each cost the median time counts, as often as the cost occurred: an interrupted call
        weighs nothing, and easy images are compared with what easy images promise.
        """
        bins = self.bins
        taken = sum(b.calls * b.median for b in bins)
        return sum(b.calls * b.macs for b in bins) / taken


def was_timed(record: RunRecord) -> bool:
    """Whether a point of the run has a measured latency."""
    return any(cell.latency_ms is not None for point in record.points for cell in point.latency)


def networks_of(
    records: Sequence[RunRecord], listed: Sequence[Row]
) -> dict[str, list[TimedNetwork]]:
    """Return the operating points that were timed, by runtime; `listed` are the records' rows."""
    points = {(r.run, one_line(p.name)): (r, p) for r in records for p in r.points}
    found: dict[str, list[TimedNetwork]] = {name: [] for name in runtimes_of(listed)}
    for row in listed:
        for runtime in row.runtimes:
            record, point = points[row.run, row.point or ""]
            cells = _timed(point, runtime)
            if cells:
                label = record.spec.backbone.label
                network = TimedNetwork(row, runtime, label, point.arrays_file, cells)
                found[runtime].append(network)
    return {runtime: networks for runtime, networks in found.items() if networks}


def names_of(networks: Sequence[TimedNetwork]) -> list[str]:
    """Name each network of one method by what tells it from the others; nothing if it is alone."""
    words = [_words(network.row) for network in networks]
    for more in (_settings, _hash):
        if len(set(map(tuple, words))) < len(words):
            words = [own + more(net.row, own) for own, net in zip(words, networks, strict=True)]
    common = set(words[0]).intersection(*words[1:]) if words else set()
    return [" ".join(word for word in dict.fromkeys(own) if word not in common) for own in words]


def _words(row: Row) -> list[str]:
    return [*row.variant.split(), row.recipe, f"seed={row.seed}"]


def _settings(row: Row, said: Sequence[str]) -> list[str]:
    """Return the settings that the words so far do not name."""
    names = {word.partition("=")[0] for word in said}
    return [item for item in row.settings if item.partition("=")[0] not in names]


def _hash(row: Row, said: Sequence[str]) -> list[str]:
    del said
    return [row.run.rpartition("-")[2]]


def samples_of(networks: Sequence[TimedNetwork], store: RunStore) -> tuple[list[Samples], int]:
    """Return the calls at batch 1 of the networks that have them, and how many have none."""
    found = []
    for network in networks:
        samples = _samples(network, store)
        if samples is not None:
            found.append(samples)
    return found, len(networks) - len(found)


def _timed(point: PointRecord, runtime: str) -> dict[int, LatencyCell]:
    sizes = sorted({cell.batch_size for cell in point.latency})
    newest = {size: newest_cell(point.latency, size, runtime) for size in sizes}
    return {
        size: cell
        for size, cell in newest.items()
        if cell is not None and cell.latency_ms is not None and cell.dense_ms is not None
    }


def _samples(network: TimedNetwork, store: RunStore) -> Samples | None:
    cell = network.cells.get(1)
    if cell is None or not cell.dense_ms or not network.row.dense_macs:
        return None
    folder = store.runs_dir / network.row.run
    try:
        raw = read_arrays(folder, cell.raw_file)
        macs_n = numbers_in(read_arrays(folder, network.arrays_file), "macs_n", axes=1)
        image_n = numbers_in(raw, "image_nb", axes=2)[:, 0]
        ms_n = numbers_in(raw, "ms_n", axes=1)
    except RecordError:
        return None
    if not _belong_together(image_n, ms_n, images=len(macs_n)) or macs_n.min() < 0:
        return None
    macs = macs_n[image_n].astype(np.float64) / network.row.dense_macs
    return Samples(network, cell, macs, ms_n.astype(np.float64) / cell.dense_ms)


def _belong_together(image_n: npt.NDArray[Any], ms_n: npt.NDArray[Any], *, images: int) -> bool:
    """Whether there is one time, longer than none, per call, and each call names an image."""
    whole = image_n.dtype.kind in "ui" and len(image_n) == len(ms_n)
    return whole and 0 <= image_n.min() <= image_n.max() < images and ms_n.min() > 0


def _parts(macs_n: Shares) -> list[npt.NDArray[np.intp]]:
    """Return the positions of the calls of each bin, by rising cost."""
    found: dict[float, list[int]] = defaultdict(list)
    for position, cost in enumerate(np.round(macs_n / _SAME_COST)):
        found[float(cost)].append(position)
    if len(found) <= _DISTINCT:
        return [np.array(found[cost]) for cost in sorted(found)]
    return list(np.array_split(np.argsort(macs_n, kind="stable"), _BINS))


def dense_networks(found: Sequence[Samples]) -> list[str]:
    """Return what 1 stands for on both axes, one line per machine setting."""
    spans: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    macs: dict[str, float] = {}
    for samples in found:
        row, cell = samples.network.row, samples.cell
        spans[row.backbone, cell.threads, one_line(cell.device)].append(cell.dense_ms or 0.0)
        macs[row.backbone] = row.dense_macs / 1e6
    lines = []
    for (backbone, threads, device), times in spans.items():
        ends = sorted({f"{min(times):.2f}", f"{max(times):.2f}"}, key=float)
        where = f"{device}, {threads_in_words(threads)}"
        lines.append(
            f"dense {backbone}: {macs[backbone]:.1f} M MACs, {' to '.join(ends)} ms ({where})"
        )
    return lines
