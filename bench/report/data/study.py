"""Seeds together, of one operating point or of all, and records under study with all that is
derived from them once: what tables, figures and verdicts speak of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import groupby
from operator import attrgetter
from statistics import fmean
from typing import Any, TypeVar

import numpy.typing as npt

from bench.analysis.statistics import Bounds, sample_sd, t_interval, wilson_interval
from bench.plain_text import one_line
from bench.records.arrays import Arrays, numbers_in, read_arrays
from bench.records.record import LatencyCell, PointRecord, RunRecord
from bench.records.store import RunStore
from bench.report.data.budgets import TrainingBudget
from bench.report.data.row import Row
from bench.report.data.rows import rows

G = TypeVar("G", bound="SeedGroup")

TOLERATED_LOSS = 0.01
"""How much less accurate than its best one a network's operating point may be to be judged."""


@dataclass(frozen=True, slots=True)
class SeedGroup:
    """Rows by rising seed: one method, variant and operating point; numbers are means over seeds.

    `distinguishing` are the settings in which it differs from others of its name, or nothing.
    """

    rows: tuple[Row, ...]
    distinguishing: str = ""

    @property
    def first(self) -> Row:
        return self.rows[0]

    @property
    def runs(self) -> list[Row]:
        """One row of each run."""
        return list({row.run: row for row in self.rows}.values())

    @property
    def seeds(self) -> int:
        return len(self.runs)

    @property
    def variant(self) -> str:
        return self.first.variant

    @property
    def title(self) -> str:
        return f"{self.first.method} {self.variant}".strip()

    @property
    def label(self) -> str:
        """Method and variant, and where that is not enough, the settings that differ."""
        return f"{self.title} {self.distinguishing}".strip()

    @property
    def backbone(self) -> str:
        return self.first.backbone

    @property
    def dense(self) -> bool:
        """Whether this is a backbone as it is, all of it."""
        return all(row.dense for row in self.rows)

    @property
    def control(self) -> bool:
        return self.first.control

    @property
    def gated(self) -> bool:
        return any(row.gated_blocks for row in self.rows)

    @property
    def epochs(self) -> float:
        """Mean epochs of training, with those of starts and sources."""
        return fmean([row.total_epochs or 0 for row in self.runs])

    @property
    def budget(self) -> TrainingBudget:
        """What its training is compared by."""
        return TrainingBudget.of(self.first, self.epochs)

    def mean_of(self, key: str) -> float | None:
        """Return the mean over the rows that have a value, or None."""
        return _mean(getattr(row, key) for row in self.rows)

    def timings(self, batch_size: int, runtime: str) -> list[LatencyCell]:
        """Return the cells of the seeds."""
        cells = (row.timing(batch_size, runtime) for row in self.rows)
        return [cell for cell in cells if cell is not None]

    def mean_time(self, key: str, batch_size: int, runtime: str) -> float | None:
        """Return the mean of a number of the cells that have it, or None."""
        return _mean(getattr(cell, key) for cell in self.timings(batch_size, runtime))

    @property
    def _accuracies(self) -> list[float]:
        return [row.accuracy for row in self.rows if row.accuracy is not None]

    @property
    def accuracy(self) -> float:
        return fmean(self._accuracies)

    @property
    def accuracy_sd(self) -> float | None:
        return sample_sd(self._accuracies)

    @property
    def accuracy_bounds(self) -> Bounds | None:
        """The 95 % t-interval over seeds, or with one seed the binomial interval of the test set;
        None where neither exists."""
        if self.seeds > 1:
            return t_interval(self._accuracies)
        if not self.first.test_images:
            return None
        return wilson_interval(self.first.correct or 0, self.first.test_images)


@dataclass(frozen=True, slots=True)
class Network(SeedGroup):
    """All operating points of runs that differ in nothing but the seed, with their records."""

    records: tuple[RunRecord, ...] = ()

    @property
    def record(self) -> RunRecord:
        """The record of the first seed."""
        return self.records[0]

    @property
    def variant(self) -> str:
        return one_line(self.record.variant)

    @property
    def known(self) -> float:
        """Mean training cost in dense epochs with starts and sources, as far as it is known."""
        return fmean([row.known_dense_epochs or 0.0 for row in self.runs])

    @property
    def total(self) -> float | None:
        """The same; None where a part of it is not known."""
        return None if any(row.total_dense_epochs is None for row in self.rows) else self.known

    @property
    def point_names(self) -> tuple[str, ...]:
        """The operating points that all seeds have, in the first one's order."""
        common = set.intersection(*({p.name for p in r.points} for r in self.records))
        return tuple(point.name for point in self.record.points if point.name in common)

    @property
    def points(self) -> list[list[tuple[RunRecord, PointRecord]]]:
        """The points of `point_names` with the records that they are from, by seed."""
        named = [
            (record, {point.name: point for point in record.points}) for record in self.records
        ]
        return [[(record, of[name]) for name in self.point_names] for record, of in named]

    @property
    def judged_position(self) -> int:
        """The position in `point_names` of the one that verdicts are on: of those that lose at most
        TOLERATED_LOSS to the most accurate one on held-out images, the cheapest. Without held-out
        images the most expensive one: nothing is chosen by test accuracy.
        """
        of_points = [[point for _, point in seeds] for seeds in zip(*self.points, strict=True)]
        macs = [fmean([point.macs for point in seeds]) for seeds in of_points]
        held_out = [
            [point.accuracy_held_out for point in seeds if point.accuracy_held_out is not None]
            for seeds in of_points
        ]
        if not all(len(known) == self.seeds for known in held_out):
            return macs.index(max(macs))
        reached = [fmean(known) for known in held_out]
        enough = [n for n, one in enumerate(reached) if one >= max(reached) - TOLERATED_LOSS]
        return min(enough, key=lambda n: macs[n])

    @property
    def judged(self) -> SeedGroup:
        """The operating point that verdicts are on."""
        names = self.point_names
        if len(names) < 2:
            return SeedGroup(self.rows, self.distinguishing)
        name = one_line(names[self.judged_position])
        return SeedGroup(tuple(r for r in self.rows if r.point == name), self.distinguishing)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None


def group_seeds(rows: Iterable[Row]) -> list[SeedGroup]:
    """Return the groups of the measured rows: largest network first, then by falling MACs."""
    found = [SeedGroup(same) for same in _seeds_together(rows, attrgetter("family", "point"))]
    return sorted(_with_settings(found), key=_largest_first)


def networks_of(rows: Iterable[Row], records: Iterable[RunRecord]) -> list[Network]:
    """Return the finished runs with seeds together, by the names of the first; `rows` are those of
    the `records`."""
    # A damaged folder may hold a second record of the name of a run.
    of_run = {r.run: r for r in records if r.status == "finished" and r.points}
    found = [
        Network(same, "", tuple(of_run[run] for run in dict.fromkeys(row.run for row in same)))
        for same in _seeds_together(rows, attrgetter("family"))
    ]
    return sorted(_with_settings(found), key=lambda network: network.first.run)


def _seeds_together(
    rows: Iterable[Row], of_one: Callable[[Row], object]
) -> Iterator[tuple[Row, ...]]:
    """Yield the measured rows that have the same `of_one`, by seed; those of each run alone where a
    seed comes twice: they differ in their start, which is a run that is no longer at hand."""
    found: dict[object, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=attrgetter("seed", "run")):
        if row.measured:
            found[of_one(row)].append(row)
    for same in found.values():
        runs = [tuple(own) for _, own in groupby(same, key=attrgetter("run"))]
        if len({own[0].seed for own in runs}) < len(runs):
            yield from runs
        else:
            yield tuple(same)


def _with_settings(groups: Sequence[G]) -> Iterator[G]:
    """Yield the groups, those of one name with the settings in which they differ."""
    by_name: dict[tuple[Any, ...], list[G]] = defaultdict(list)
    for group in groups:
        one = group.first
        by_name[one.dataset, one.backbone, one.method, group.variant, one.recipe].append(group)
    for same in by_name.values():
        common = set.intersection(*(set(group.first.settings) for group in same))
        for group in same:
            differing = [item for item in group.first.settings if item not in common]
            yield replace(group, distinguishing=", ".join(differing))


def _largest_first(group: SeedGroup) -> tuple[Any, ...]:
    macs = group.mean_of("macs") or 0.0
    return group.first.dataset, -group.first.dense_macs, -macs, group.label


def without_restated(groups: Sequence[SeedGroup]) -> list[SeedGroup]:
    """Return the groups without controls that say nothing new: with the cost of the run that it was
    made from, and the accuracy of that run's shuffled masks, one is a property of that run."""
    known = set()
    for row in (row for group in groups for row in group.rows):
        # Shuffling cannot change the accuracy where all images have the same mask.
        same = row.accuracy if row.distinct_masks == 1 else None
        known |= {(row.run, round(row.macs or 0), a) for a in (row.shuffled_accuracy, same)}
    return [
        group
        for group in groups
        if not all((row.source, round(row.macs or 0), row.accuracy) in known for row in group.rows)
    ]


class Study:
    """Some records of a store."""

    def __init__(self, records: Sequence[RunRecord], store: RunStore) -> None:
        self.records, self.store = tuple(records), store
        self._read = cache(lambda run, file: dict(read_arrays(store.runs_dir / run, file)))

    @cached_property
    def rows(self) -> list[Row]:
        return rows(self.records)

    @cached_property
    def groups(self) -> list[SeedGroup]:
        return group_seeds(self.rows)

    @cached_property
    def networks(self) -> list[Network]:
        return networks_of(self.rows, self.records)

    def arrays(self, record: RunRecord, file: str) -> Arrays:
        """Return the arrays of a file of a run, read once.

        Raises:
            RecordError: the file cannot be read.
        """
        return self._read(record.run, file)

    def numbers(self, record: RunRecord, file: str, key: str, *, axes: int) -> npt.NDArray[Any]:
        """Return finite numbers of a file of a run, of this many axes.

        Raises:
            RecordError: they are missing or of another kind.
        """
        return numbers_in(self.arrays(record, file), key, axes=axes)
