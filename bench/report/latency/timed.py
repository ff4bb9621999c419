"""Time beside MACs, call by call, and where the order of networks by MACs and their order by time
disagree: what the two latency figures show.

Every number is relative to the dense network that was timed in the same rounds. Networks of several
commands fit on one pair of axes; only networks timed together are ranked. Owns no drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.errors import RecordError
from bench.measure.latency.statistics import expected_ms
from bench.records.record import Interval, LatencyCell, RunRecord
from bench.report.data.row import Row, runtimes_of
from bench.report.data.rows import newest_cell, place_in_words
from bench.report.data.study import Study

Shares = npt.NDArray[np.float64]

_SAME_MACS = 0.01
"""MACs that differ by less than 1 % count as equal."""
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


@dataclass(frozen=True, slots=True)
class TimedNetwork:
    """One operating point with its newest cell per batch size that was timed in one runtime.

    `dense_ms` of a cell is the expected time of the dense network in the same rounds; two cells
    that share it were timed together.
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
    realised: float  # the speed-up over the ideal one, as in the tables

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


def timed_networks(study: Study) -> dict[str, list[TimedNetwork]]:
    """Return the operating points that were timed, by runtime."""
    points = [(record, point) for record in study.records for point in record.points]
    rows = [row for row in study.rows if row.point is not None]
    found: dict[str, list[TimedNetwork]] = {runtime: [] for runtime in runtimes_of(rows)}
    for (record, point), row in zip(points, rows, strict=True):
        sizes = sorted({cell.batch_size for cell in point.latency})
        name = study.names.get((row.run, row.point), row.method)
        for runtime, networks in found.items():
            newest = ((size, newest_cell(point.latency, size, runtime)) for size in sizes)
            cells = {n: c for n, c in newest if c and None not in (c.latency_ms, c.dense_ms)}
            if cells:
                network = TimedNetwork(row, name, runtime, record, point.arrays_file, cells)
                networks.append(network)
    return {runtime: networks for runtime, networks in found.items() if networks}


def samples_of(networks: Sequence[TimedNetwork], study: Study) -> tuple[list[Samples], int]:
    """Return the calls at batch 1 of the networks that have them, and how many have none."""
    found = [_samples(network, study) for network in networks]
    known = [samples for samples in found if samples is not None]
    return known, len(networks) - len(known)


def _samples(network: TimedNetwork, study: Study) -> Samples | None:
    cell, record = network.cells.get(1), network.record
    timing = network.row.timing(1, network.runtime)
    if cell is None or not cell.dense_ms or not record.dense_macs:
        return None
    if timing is None or timing.realised is None:
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
    times = ms_n.astype(np.float64) / cell.dense_ms
    return Samples(network, cell, macs, times, timing.realised)


@dataclass(frozen=True, slots=True)
class Ranked:
    """A network, or the dense one, with its MACs and speed-ups relative to the dense one.

    `speedups` holds the paired speed-up and its interval per batch size.
    """

    name: str
    nflops: float
    speedups: dict[int, tuple[float, Interval]]
    contended: frozenset[int] = frozenset()
    dense: bool = False

    def disagrees_with(self, other: Ranked, batch_size: int) -> bool:
        """Whether it needs fewer MACs by 1 % or more, and the whole interval of its speed-up lies
        below that of `other`."""
        own, theirs = self.speedups[batch_size][1], other.speedups[batch_size][1]
        return self.nflops < other.nflops * (1 - _SAME_MACS) and own.high < theirs.low


@dataclass(frozen=True, slots=True)
class Ranking:
    """Networks that were timed together at one or two batch sizes; `left_out` were not. `machine`
    names the device, threads and runtime."""

    networks: tuple[Ranked, ...]
    batch_sizes: tuple[int, ...]
    machine: str
    left_out: int = 0
    synthetic: bool = False

    @property
    def by_macs(self) -> list[Ranked]:
        return sorted(self.networks, key=lambda one: (one.nflops, one.name))

    def by_time(self, batch_size: int) -> list[Ranked]:
        return sorted(self.networks, key=lambda one: (-one.speedups[batch_size][0], one.nflops))

    def disagreements(self, batch_size: int) -> list[tuple[Ranked, Ranked]]:
        """Return the pairs (cheaper, faster): the first needs fewer MACs and is slower."""
        return [
            (a, b) for a in self.networks for b in self.networks if a.disagrees_with(b, batch_size)
        ]

    def slow_for_their_macs(self, batch_size: int) -> set[str]:
        """Return the names of the networks that are slower than one that needs more MACs."""
        return {cheaper.name for cheaper, _ in self.disagreements(batch_size)}

    @property
    def finding(self) -> str:
        """How many networks are slower than one that needs more MACs."""
        sizes, count = self.batch_sizes, len(self.networks)
        pairs = [len(self.disagreements(size)) for size in sizes]
        if not any(pairs):
            where = " and ".join(map(str, sizes))
            return f"No network is slower than one that needs more MACs, at batch {where}"
        slow = [f"{len(self.slow_for_their_macs(size))} at batch {size}" for size in sizes]
        slow[0] = slow[0].replace(" at", f" of {count} networks at")
        return (
            f"Slower than a network that needs more MACs: {' and '.join(slow)} "
            f"({' and '.join(map(str, pairs))} of {count * (count - 1) // 2} pairs)"
        )


def ranking_of(networks: Sequence[TimedNetwork]) -> Ranking | None:
    """Return the ranking of the largest set timed together, with the dense network; or None. Of
    equal sets the newest, then that of the largest backbone.

    The batch sizes are the smallest and the largest at which all of the set were timed.
    """

    def rank(found: tuple[TimedNetwork, list[TimedNetwork]]) -> tuple[int, str, float]:
        largest, members = found
        newest = max(cell.measured_at for network in members for cell in network.cells.values())
        return len(members), newest, largest.row.dense_macs

    largest, members = max(_sets(networks), key=rank, default=(None, []))
    if largest is None or len(members) < 2:
        return None
    first, sizes, unit = members[0], members[0].sizes, largest.row.dense_macs
    itself = dict.fromkeys(sizes, (1.0, Interval(low=1.0, high=1.0)))
    dense = Ranked(f"dense {largest.row.backbone}", 1.0, itself, dense=True)
    timed = [network for network in networks if not network.dense and network.sizes]
    return Ranking(
        (*(_ranked(network, sizes, unit) for network in members), dense),
        sizes,
        f"{place_in_words(first.cells[sizes[0]])}, in {first.runtime}",
        left_out=len(timed) - sum(not network.dense for network in members),
        synthetic=any(network.row.synthetic for network in members),
    )


def _sets(networks: Sequence[TimedNetwork]) -> list[tuple[TimedNetwork, list[TimedNetwork]]]:
    """Return the sets timed together behind a network of the backbone that each is seen from;
    smaller dense networks belong to them."""
    found: dict[tuple[object, ...], tuple[TimedNetwork, list[TimedNetwork]]] = {}
    for label, of in {network.backbone: network for network in networks}.items():
        for network in networks:
            seen = None if network.dense and network.backbone == label else network.beside(label)
            if seen is None or not seen.sizes:
                continue
            # Two networks share these only if their ratios have the same numerator.
            cells = [seen.cells[size] for size in seen.sizes]
            rounds = [(c.batch_size, c.device, c.threads, c.dense_ms) for c in cells]
            _, members = found.setdefault((label, *rounds), (of, []))
            # Dense networks of one backbone differ in nothing that takes time.
            if not (seen.dense and any(m.dense and m.backbone == seen.backbone for m in members)):
                members.append(seen)
    return list(found.values())


def _ranked(network: TimedNetwork, sizes: Sequence[int], unit: float) -> Ranked:
    name = f"dense {network.row.backbone}" if network.dense else network.name
    cells = {size: network.cells[size] for size in sizes}
    speedups = {
        size: (cell.speedup, cell.speedup_interval)
        for size, cell in cells.items()
        if cell.speedup is not None and cell.speedup_interval is not None
    }
    contended = frozenset(size for size, cell in cells.items() if cell.contended)
    return Ranked(name, (network.row.macs or 0) / unit, speedups, contended)
