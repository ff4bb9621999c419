"""From records and their arrays to the numbers that verdicts are made of: accuracies and costs.

Owns what a cost is in MACs and in time, and which networks are compared with which; owns no
statistics (bench.analysis) and no sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bench.analysis.statistics import Array
from bench.analysis.uncertainty import Runs
from bench.config import BackboneSpec
from bench.errors import RecordError
from bench.records.arrays import bits_in, numbers_in
from bench.records.record import UNKNOWN_RUNTIME, Interval, LatencyCell, PointRecord, RunRecord
from bench.report.data.row import BATCH_SIZES, NOT_TIMED, Row, runtimes_of
from bench.report.data.rows import how_measured, newest_cell
from bench.report.data.study import Network, Study

_HALF_WIDTH = 2 * 1.959964


class Axis(NamedTuple):
    """What costs are: MACs, or time at a batch size in a runtime. Times in two runtimes are two
    axes; without a runtime nothing was timed."""

    batch_size: int = 0
    runtime: str = ""

    @property
    def kind(self) -> str:
        return "time" if self.batch_size else "MACs"

    @property
    def name(self) -> str:
        """Its name for scripts, without the runtime."""
        return f"time at batch {self.batch_size}" if self.batch_size else "macs"

    @property
    def title(self) -> str:
        """Its name for readers."""
        if not self.batch_size:
            return "MACs"
        known = self.runtime not in ("", UNKNOWN_RUNTIME)
        return f"{self.name}, {self.runtime}" if known else self.name


MACS = Axis()


def axes_of(rows: Sequence[Row]) -> list[Axis]:
    """Return MACs, and time at each batch size in each runtime in which a row has a cell."""
    runtimes = runtimes_of(rows) or [""]
    return [MACS, *(Axis(size, runtime) for runtime in runtimes for size in BATCH_SIZES)]


def same_images(a: Network, b: Network) -> bool:
    """Whether both were trained and evaluated on the same images."""
    one, other = a.record, b.record
    return one.spec.dataset == other.spec.dataset and one.test_images == other.test_images


def beside(network: Network, statics: Sequence[Network]) -> list[Network]:
    """Return the static networks of the same ladder and budget, on the same images."""
    ladder = network.record.spec.backbone.family
    same = [
        other
        for other in statics
        if other.record.spec.backbone.family == ladder and same_images(network, other)
    ]
    budget = network.budget.nearest([other.budget for other in same])
    return [other for other in same if budget.matches(other.budget)]


def with_costs(
    members: Sequence[Network], study: Study, *, axis: Axis, of: RunRecord
) -> list[tuple[Network, Runs]]:
    """Return those that have a cost on this axis, with it."""
    found = []
    for network in members:
        try:
            found.append((network, costs_on(network, study, axis=axis, of=of)))
        except RecordError:
            continue
    return found


def costs_on(network: Network, study: Study, *, axis: Axis, of: RunRecord) -> Runs:
    """Return accuracies and costs, in units of the dense backbone of `of`.

    In time that itself takes exactly 1: how unsure a ratio is stands in the other's speed-up, whose
    interval is paired with it.

    Raises:
        RecordError: there is no number on this axis, or arrays are missing or do not fit.
    """
    if axis == MACS:
        return in_macs(network, study, unit=of.dense_macs)
    correct_spn, _ = _arrays(network, study)
    seeds, points, _ = correct_spn.shape
    if network.dense and network.record.spec.backbone == of.spec.backbone:
        return Runs(correct_spn, np.ones((seeds, points)), np.zeros(points))
    cells = cells_of(network, axis)
    ratios = [[_ratio(cell, network, of.spec.backbone) for cell in row] for row in cells]
    time_sp = np.array([[1 / ratio for ratio, _ in row] for row in ratios])
    error_sp = np.array([[(1 / i.low - 1 / i.high) / _HALF_WIDTH for _, i in r] for r in ratios])
    return Runs(correct_spn, time_sp, np.sqrt((error_sp**2).sum(axis=0)) / seeds)


def in_macs(network: Network, study: Study, *, unit: float) -> Runs:
    """Return accuracy and MACs, in units of `unit` MACs; those of each image where they differ.

    Raises:
        RecordError: arrays are missing or do not fit.
    """
    correct_spn, macs_spn = _arrays(network, study)
    cost = macs_spn.mean(axis=2) if network.static else macs_spn
    return Runs(correct_spn, cost / unit, np.zeros(correct_spn.shape[1]))


def cells_of(network: Network, axis: Axis) -> list[list[LatencyCell]]:
    """Return the newest cells, by seed and point.

    Raises:
        RecordError: a point was not timed, or not all in the same way.
    """
    found: list[list[LatencyCell]] = []
    for of_seed in network.points:
        found.append([])
        for _, point in of_seed:
            cell = newest_cell(point.latency, axis.batch_size, axis.runtime)
            if cell is None or cell.latency_ms is None:
                raise RecordError(cell.reason if cell is not None and cell.reason else NOT_TIMED)
            found[-1].append(cell)
    if len({how_measured(cell) for row in found for cell in row}) > 1:
        raise RecordError("timed on several devices or numbers of threads")
    return found


def _ratio(cell: LatencyCell, network: Network, beside: BackboneSpec) -> tuple[float, Interval]:
    """Return the speed-up over the dense network `beside`, its own or that of another backbone."""
    own = network.record.spec.backbone == beside
    found = cell if own else cell.others.get(beside.label)
    if found is None or not found.speedup or found.speedup_interval is None:
        raise RecordError("not timed in the same rounds as the dense network")
    return found.speedup, found.speedup_interval


def _arrays(network: Network, study: Study) -> tuple[Array, Array]:
    """Return which images were right, and the MACs of each image, both (S, P, N)."""
    if not network.point_names:
        raise RecordError("the seeds have no operating point in common")
    found = [[_of_images(*one, study) for one in of_seed] for of_seed in network.points]
    correct_spn, macs_spn = (np.array([[p[k] for p in row] for row in found]) for k in (0, 1))
    return correct_spn, macs_spn


def _of_images(record: RunRecord, point: PointRecord, study: Study) -> tuple[Array, Array]:
    arrays, images = study.arrays(record, point.arrays_file), record.test_images
    try:
        right_n = bits_in(arrays, "correct_bits", count=images).astype(float)
    except RecordError:
        raise RecordError("which images were right is not on record") from None
    if "macs_n" not in arrays:
        return right_n, np.full(images, point.macs)
    try:
        macs_n = numbers_in(arrays, "macs_n", axes=1)
    except RecordError:
        raise RecordError("the MACs on record are no finite numbers") from None
    if len(macs_n) != images:
        raise RecordError("the MACs on record are of other images")
    return right_n, macs_n
