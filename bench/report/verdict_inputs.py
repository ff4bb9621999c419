"""From records and their arrays to the numbers that verdicts are made of.

Owns which runs differ only in the seed, which networks count as static, and what a cost is in MACs
and in time; owns no statistics (bench.analysis) and no sentences (verdicts.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import fsum
from typing import Literal

import numpy as np

from bench.analysis.uncertainty import Array, Runs
from bench.config import BackboneSpec
from bench.errors import RecordError
from bench.plain_text import one_line
from bench.records.arrays import bits_in, numbers_in, read_arrays
from bench.records.record import Interval, LatencyCell, PointRecord, RunRecord
from bench.records.store import RunStore
from bench.report.budgets import Budget, Spent, budget_of, spent_by
from bench.report.groups import each_seed_once, group_seeds
from bench.report.rows import Row, how_measured, main_runtime, newest_cell, rows

Axis = Literal["macs", "time at batch 1", "time at batch 256"]
AXES: tuple[Axis, ...] = ("macs", "time at batch 1", "time at batch 256")
BATCH_OF: Mapping[Axis, int] = {"time at batch 1": 1, "time at batch 256": 256}
ReadArrays = Callable[[RunRecord, PointRecord], Mapping[str, Array]]
_HALF_WIDTH = 2 * 1.959964


def axis_title(axis: Axis) -> str:
    """Return the axis as tables name it."""
    return "MACs" if axis == "macs" else axis


class Unusable(Exception):
    """There is no number on this axis; the message says why, for a sentence."""


@dataclass(frozen=True, slots=True)
class Family:
    """Runs that differ in nothing but the seed, by rising seed.

    `apart` are the settings that tell them from others of their method and variant, or nothing;
    `spent` is what each cost.
    """

    records: tuple[RunRecord, ...]
    spent: tuple[Spent, ...]
    budget: Budget
    apart: str = ""

    @property
    def first(self) -> RunRecord:
        return self.records[0]

    @property
    def title(self) -> str:
        """Method and variant."""
        return one_line(f"{self.first.spec.method} {self.first.variant}".strip())

    @property
    def label(self) -> str:
        """Method and variant, and where that is not enough, the settings that differ."""
        return f"{self.title} {self.apart}".strip()

    @property
    def backbone(self) -> str:
        return self.first.spec.backbone.name

    @property
    def static(self) -> bool:
        """Whether every image runs the same, and nothing decides."""
        points = [point for record in self.records for point in record.points]
        return all(not point.gated_blocks and point.macs_std == 0 for point in points)

    @property
    def dense(self) -> bool:
        """Whether this is a backbone as it is, all of it."""
        whole = all(
            abs(point.macs - record.dense_macs) <= 1e-6 * record.dense_macs
            for record in self.records
            for point in record.points
        )
        return self.static and whole and not self.control

    @property
    def control(self) -> bool:
        return self.first.role == "control"

    @property
    def epochs(self) -> float:
        """Mean epochs of training, with those of starts and sources."""
        return fsum(one.epochs for one in self.spent) / len(self.spent)

    @property
    def known(self) -> float:
        """Mean training cost in dense epochs with starts and sources, as far as it is known."""
        return fsum(one.dense_epochs for one in self.spent) / len(self.spent)

    @property
    def total(self) -> float | None:
        """Mean training cost with that of the start; None where nobody knows it."""
        return None if any(one.outside for one in self.spent) else self.known

    @property
    def forward_only(self) -> bool:
        """Whether some of the cost counts forward passes alone."""
        return any(one.forward_only for one in self.spent)

    @property
    def start(self) -> str | None:
        """What all runs begin with that was trained elsewhere, if there is anything."""
        return self.spent[0].outside or None

    @property
    def point_names(self) -> tuple[str, ...]:
        """The operating points that all seeds have, in the first one's order."""
        common = set.intersection(*({p.name for p in r.points} for r in self.records))
        return tuple(point.name for point in self.first.points if point.name in common)

    def points(self, record: RunRecord) -> list[PointRecord]:
        by_name = {point.name: point for point in record.points}
        return [by_name[name] for name in self.point_names]


def families(records: Sequence[RunRecord]) -> list[Family]:
    """Return the finished runs with seeds together, in the order of their names."""
    listed = rows(records)
    by_run = {row["run"]: row for row in listed}
    apart = {row["run"]: group.apart for group in group_seeds(listed) for row in group.rows}
    spent = spent_by(listed)
    found: dict[str, list[RunRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.run):
        if record.status == "finished" and record.points:
            found[by_run[record.run]["family"]].append(record)
    return [
        _family(sorted(members, key=_seed), by_run, spent, apart=apart[members[0].run])
        for group in found.values()
        for members in each_seed_once(group, seed=_seed)
    ]


def _family(
    members: Sequence[RunRecord],
    by_run: Mapping[str, Row],
    spent: Mapping[str, Spent],
    *,
    apart: str,
) -> Family:
    costs = tuple(spent.get(record.run, Spent(0, 0.0, "unknown", False)) for record in members)
    epochs = fsum(one.epochs for one in costs) / len(costs)
    return Family(tuple(members), costs, budget_of(by_run[members[0].run], epochs), apart)


def same_images(a: Family, b: Family) -> bool:
    """Whether both were trained and evaluated on the same images."""
    one, other = a.first, b.first
    return one.spec.dataset == other.spec.dataset and one.test_images == other.test_images


def same_test(a: Family, b: Family) -> bool:
    """Whether both were evaluated on the same images, trained by the same recipe."""
    return same_images(a, b) and a.first.spec.budget.recipe == b.first.spec.budget.recipe


def of_its_budget(family: Family, statics: Sequence[Family]) -> list[Family]:
    """Return the static networks on the same images that were trained as `family` was: of the same
    budget, or where there are none, all of the nearest one."""
    beside = [other for other in statics if same_images(family, other)]
    alike = [other for other in beside if family.budget.matches(other.budget)]
    if alike or not beside:
        return alike
    nearest = min((other.budget for other in beside), key=family.budget.distance)
    return [other for other in beside if nearest.matches(other.budget)]


def reader_of(store: RunStore) -> ReadArrays:
    """Return what reads the arrays beside records, each file once.

    Raises:
        Unusable: a file cannot be read; when it is asked for.
    """

    @cache
    def read(run: str, file: str) -> dict[str, Array]:
        return dict(read_arrays(store.runs_dir / run, file))

    def of_point(record: RunRecord, point: PointRecord) -> dict[str, Array]:
        try:
            return read(record.run, point.arrays_file)
        except RecordError as error:
            raise Unusable(error.message) from None

    return of_point


def costs_on(family: Family, read: ReadArrays, *, axis: Axis, of: RunRecord) -> Runs:
    """Return accuracies and costs, in units of the dense backbone of `of`.

    Raises:
        Unusable: there is no number on this axis.
    """
    if axis == "macs":
        return in_macs(family, read, unit=of.dense_macs)
    return in_time(family, read, beside=of.spec.backbone, batch_size=BATCH_OF[axis])


def in_macs(family: Family, read: ReadArrays, *, unit: float) -> Runs:
    """Return accuracy and MACs, in units of `unit` MACs; those of each image where they differ.

    Raises:
        Unusable: arrays are missing or do not fit.
    """
    correct_spn, macs_spn = _arrays(family, read)
    if family.static:
        macs_spn = macs_spn.mean(axis=2)
    return Runs(correct_spn, macs_spn / unit, np.zeros(correct_spn.shape[1]))


def in_time(family: Family, read: ReadArrays, *, beside: BackboneSpec, batch_size: int) -> Runs:
    """Return accuracy and time, in units of the dense `beside` in the same rounds.

    The dense network itself takes exactly 1: how unsure the ratio is stands in the other's
    speed-up, whose interval is paired with it.

    Raises:
        Unusable: not timed beside it, or on several devices; arrays are missing or do not fit.
    """
    correct_spn, _ = _arrays(family, read)
    seeds, points, _ = correct_spn.shape
    own = family.first.spec.backbone
    if family.dense and own == beside:
        return Runs(correct_spn, np.ones((seeds, points)), np.zeros(points))
    other = None if own == beside else beside.label
    ratios = [[_ratio(cell, other) for cell in row] for row in cells_of(family, batch_size)]
    time_sp = np.array([[1 / ratio for ratio, _ in row] for row in ratios])
    error_sp = np.array([[_error(interval) for _, interval in row] for row in ratios])
    return Runs(correct_spn, time_sp, np.sqrt((error_sp**2).sum(axis=0)) / seeds)


def cells_of(family: Family, batch_size: int) -> list[list[LatencyCell]]:
    """Return the newest cells, by seed and point.

    Raises:
        Unusable: a point was not timed, or not all in the same way.
    """
    found: list[list[LatencyCell]] = []
    for record in family.records:
        row: list[LatencyCell] = []
        for point in family.points(record):
            cell = newest_cell(point.latency, batch_size, main_runtime(point.latency))
            if cell is None or cell.latency_ms is None:
                raise Unusable(cell.reason if cell is not None and cell.reason else "not timed")
            row.append(cell)
        found.append(row)
    if len({how_measured(cell) for row in found for cell in row}) > 1:
        raise Unusable("timed on several devices, in several runtimes or numbers of threads")
    return found


def _ratio(cell: LatencyCell, other: str | None) -> tuple[float, Interval]:
    """Return the speed-up over the dense network, its own or that of another backbone."""
    if other is None and cell.speedup and cell.speedup_interval is not None:
        return cell.speedup, cell.speedup_interval
    if other is not None and other in cell.others:
        return cell.others[other].speedup, cell.others[other].speedup_interval
    raise Unusable("not timed in the same rounds as the dense network")


def _error(speedup: Interval) -> float:
    return (1 / speedup.low - 1 / speedup.high) / _HALF_WIDTH


def _arrays(family: Family, read: ReadArrays) -> tuple[Array, Array]:
    """Return which images were right, and the MACs of each image, both (S, P, N)."""
    correct, macs = [], []
    for record in family.records:
        for point in family.points(record):
            arrays = read(record, point)
            images = record.test_images
            try:
                right_n = bits_in(arrays, "correct_bits", count=images)
            except RecordError:
                raise Unusable("which images were right is not on record") from None
            correct.append(right_n.astype(float))
            macs.append(_macs_of(arrays, point, images))
    shape = (len(family.records), len(family.point_names), -1)
    if not correct:
        raise Unusable("the seeds have no operating point in common")
    return np.stack(correct).reshape(shape), np.stack(macs).reshape(shape)


def _macs_of(arrays: Mapping[str, Array], point: PointRecord, images: int) -> Array:
    if "macs_n" not in arrays:
        return np.full(images, point.macs)
    try:
        macs_n = numbers_in(arrays, "macs_n", axes=1)
    except RecordError:
        raise Unusable("the MACs on record are no finite numbers") from None
    if len(macs_n) != images:
        raise Unusable("the MACs on record are of other images")
    return macs_n


def _seed(record: RunRecord) -> int:
    return record.spec.seed
