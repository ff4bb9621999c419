"""From records and their arrays to the numbers that verdicts are made of: accuracies and costs.

Owns what a cost is in MACs and in time, and which networks are compared with which; owns no
statistics (bench.analysis) and no sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bench.analysis.statistics import Array
from bench.analysis.uncertainty import Runs, runs
from bench.config import BackboneSpec
from bench.errors import RecordError
from bench.records.arrays import bits_in
from bench.records.record import Interval, LatencyCell, PointRecord, RunRecord
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
        return f"{self.name}, {self.runtime}" if self.runtime else self.name


MACS = Axis()


def axes_of(rows: Sequence[Row]) -> list[Axis]:
    """Return MACs, and time in each runtime in which a row has a cell: at batch 1, and at the other
    batch sizes that were tried."""
    tried = {(cell.runtime, cell.batch_size) for row in rows for cell in row.timings}
    times = (Axis(size, runtime) for runtime in runtimes_of(rows) or [""] for size in BATCH_SIZES)
    return [MACS, *(t for t in times if t.batch_size == 1 or (t.runtime, t.batch_size) in tried)]


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
    if network.dense and network.record.spec.backbone == of.spec.backbone:
        return runs(correct_spn, 1.0)
    cells = [[_cell(point, axis) for _, point in of_seed] for of_seed in network.points]
    if len({how_measured(cell) for row in cells for cell in row}) > 1:
        raise RecordError("timed on several devices or numbers of threads")
    ratios = [[_ratio(cell, network, of.spec.backbone) for cell in row] for row in cells]
    time_sp = np.array([[1 / ratio for ratio, _ in row] for row in ratios])
    error_sp = np.array([[(1 / i.low - 1 / i.high) / _HALF_WIDTH for _, i in r] for r in ratios])
    error_p = np.sqrt((error_sp**2).sum(axis=0)) / len(error_sp)
    return runs(correct_spn, time_sp[:, :, None], cost_se_p=error_p)


def in_macs(network: Network, study: Study, *, unit: float) -> Runs:
    """Return accuracy and the MACs of each image, in units of `unit` MACs.

    Raises:
        RecordError: arrays are missing or do not fit.
    """
    correct_spn, macs_spn = _arrays(network, study)
    return runs(correct_spn, macs_spn / unit)


def _cell(point: PointRecord, axis: Axis) -> LatencyCell:
    """Return the newest cell; a RecordError where the point was not timed."""
    cell = newest_cell(point.latency, axis.batch_size, axis.runtime)
    if cell is None or cell.latency_ms is None:
        raise RecordError(cell.reason if cell is not None and cell.reason else NOT_TIMED)
    return cell


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
    file, images = point.arrays_file, record.test_images
    right_n = bits_in(study.arrays(record, file), "correct_bits", count=images).astype(float)
    macs_n = study.numbers(record, file, "macs_n", axes=1)
    if len(macs_n) != images:
        raise RecordError("the MACs on record are of other images")
    return right_n, macs_n
