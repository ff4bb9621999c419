"""What a network does with an image: rates of blocks, costs, difficulty, the easiest and hardest.

Pure numbers from a record and its arrays, for one seed; owns no drawing and no data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.analysis.extremes import extremes_of
from bench.errors import RecordError
from bench.plain_text import one_line
from bench.records.arrays import numbers_in, read_arrays
from bench.records.record import PointRecord, RunRecord
from bench.records.store import RunStore
from bench.report.behaviour.gradients import (
    DenseGradients,
    RatesAndGradients,
    dense_gradients,
    rates_and_gradients,
)
from bench.report.behaviour.positions import PositionMaps, decides_per_position, position_maps
from bench.report.data.groups import Family
from bench.report.data.study import Study
from bench.report.tables.cells import ReportTable, table_of

Numbers = npt.NDArray[Any]
DIFFICULTY_BINS = 10
MOST_SHOWN = 24
"""More networks than this are not drawn one by one: nobody would read them."""


@dataclass(frozen=True, slots=True)
class ExtremeImages:
    """The cheapest and the most expensive images of one operating point: positions in the test set.

    `as_cheap` and `as_expensive` count the images that share the lowest and the highest cost.
    """

    point: str
    cheapest: tuple[int, ...]
    most_expensive: tuple[int, ...]
    as_cheap: int
    as_expensive: int


@dataclass(frozen=True, slots=True, eq=False)
class PointBehaviour:
    """One operating point; `share_n` is the MACs of each image over those of the dense network,
    `by_difficulty` their quartiles and mean in tenths of the images from easy to hard, (10, 4),
    `together` how its rates go with the dense network's gradients.
    `per_position`: images run parts of a block."""

    point: PointRecord
    share_n: Numbers | None
    by_difficulty: Numbers | None
    together: RatesAndGradients
    per_position: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Behaviour:
    """What is shown of one network. `missing` says what could not be, and why; `maps` are None
    where a network does not decide per position."""

    label: str
    record: RunRecord
    control: bool
    dense: DenseGradients
    points: tuple[PointBehaviour, ...]
    extremes: ExtremeImages | None
    maps: PositionMaps | None
    missing: tuple[str, ...]


def behaviours_of(study: Study) -> tuple[list[Behaviour], list[str]]:
    """Return the behaviour of the networks with gates, and the labels of those left out.

    Of several seeds the first is shown. Where there are more than MOST_SHOWN networks, the most
    accurate of each method on each backbone are.
    """
    gated = [family for family in study.families if any(row.gated_blocks for row in family.rows)]
    chosen = gated if len(gated) <= MOST_SHOWN else _best(gated)
    left_out = [family.label for family in gated if family not in chosen]
    losses = _Losses(study)
    found = [_behaviour(family, study.store, losses) for family in chosen]
    return sorted(found, key=lambda one: (one.control, one.label)), left_out


def behaviour_table(found: Sequence[Behaviour]) -> ReportTable:
    """Return the numbers of each operating point: masks, what is dropped, what shuffling costs."""
    lines = [_line(behaviour, shown) for behaviour in found for shown in behaviour.points]
    caption = (
        "Dropped: share of gated blocks that an image does not run. Shuffled: points of accuracy "
        "gained or lost when every image follows another one's decisions, at the same cost. "
        "Difficulty: rank correlation of an image's MACs with the dense network's loss on it. "
        "Gradient: rank correlation, over gated blocks, of the share of images that run a block "
        "with the magnitude of its gradient in the dense network; within stages: the same of "
        "ranks within each stage of the backbone."
    )
    return table_of("behaviour", caption, lines)


def _best(gated: Sequence[Family]) -> list[Family]:
    best: dict[tuple[str, str], Family] = {}
    for family in sorted(gated, key=lambda f: max(p.accuracy for p in f.first.points)):
        best[family.rows[0].method, family.backbone] = family
    return [family for family in gated if family in best.values()]


class _Losses:
    """The dense network's loss on each image: the record names the run, or one is found."""

    def __init__(self, study: Study) -> None:
        self._by_run = {record.run: record for record in study.records}
        self.dense = [record for f in study.families if f.dense for record in f.records]
        self._store = study.store

    def beside(self, record: RunRecord) -> Numbers:
        """Return the loss on each test image of `record`, (N,).

        Raises:
            RecordError: no dense network of its backbone has them; the message says which lacks.
        """
        reason = f"no dense {record.spec.backbone.name} was run on these images"
        for other in self._candidates(record):
            try:
                arrays = read_arrays(self._store.folder_of(other), other.points[0].arrays_file)
                loss_n = numbers_in(arrays, "loss_n", axes=1)
            except RecordError as error:
                reason = error.message
                continue
            if len(loss_n) == record.test_images:
                return loss_n
        raise RecordError(reason)

    def _candidates(self, record: RunRecord) -> list[RunRecord]:
        named = [p.dynamics.difficulty_of for p in record.points if p.dynamics is not None]
        found = [self._by_run[name] for name in named if name in self._by_run]
        found += [
            other
            for other in self.dense
            if other.spec.backbone == record.spec.backbone
            and other.spec.dataset == record.spec.dataset
        ]
        return [other for other in found if other.points]


def _behaviour(family: Family, store: RunStore, losses: _Losses) -> Behaviour:
    record = family.first
    missing: list[str] = []
    loss_n: Numbers | None = None
    try:
        loss_n = losses.beside(record)
    except RecordError as error:
        missing.append(f"Cost against difficulty is missing: {error.message}")
    dense = dense_gradients(record, losses.dense)
    points = tuple(_point(record, point, store, loss_n, dense, missing) for point in record.points)
    extremes = _extremes(points)
    return Behaviour(
        label=family.label,
        record=record,
        control=family.control,
        dense=dense,
        points=points,
        extremes=extremes,
        maps=_maps(record, points, store, extremes, missing),
        missing=tuple(one_line(text) for text in dict.fromkeys(missing)),
    )


def _point(
    record: RunRecord,
    point: PointRecord,
    store: RunStore,
    loss_n: Numbers | None,
    dense: DenseGradients,
    missing: list[str],
) -> PointBehaviour:
    together = rates_and_gradients(point, dense, backbone=record.spec.backbone.name)
    try:
        arrays = read_arrays(store.folder_of(record), point.arrays_file)
        macs_n = numbers_in(arrays, "macs_n", axes=1).astype(np.float64)
    except RecordError as error:
        missing.append(f"Cost per image is missing: {error.message}")
        return PointBehaviour(point, None, None, together)
    share_n = macs_n / max(record.dense_macs, 1)
    fits = loss_n is not None and len(loss_n) == len(share_n)
    means = by_difficulty(share_n, loss_n) if fits else None
    return PointBehaviour(point, share_n, means, together, decides_per_position(arrays))


def _maps(
    record: RunRecord,
    points: Sequence[PointBehaviour],
    store: RunStore,
    extremes: ExtremeImages | None,
    missing: list[str],
) -> PositionMaps | None:
    """Return the maps of the extreme images, where the network decides per position."""
    shown = [p for p in points if extremes is not None and one_line(p.point.name) == extremes.point]
    if extremes is None or not shown:
        return None
    found = shown[0]
    if not (found.point.positions_file or found.per_position):
        return None
    images = {"cheapest": extremes.cheapest, "most_expensive": extremes.most_expensive}
    try:
        return position_maps(record, found.point, store, **images)
    except RecordError as error:
        missing.append(f"Maps of where it spends its blocks are missing: {error.message}.")
        return None


def by_difficulty(share_n: Numbers, loss_n: Numbers | None) -> Numbers:
    """Return lower quartile, median, upper quartile and mean of the cost in each tenth of the
    images by their loss, easy first, (10, 4)."""
    assert loss_n is not None
    parts = np.array_split(np.argsort(loss_n, kind="stable"), min(DIFFICULTY_BINS, len(loss_n)))
    return np.array(
        [[*np.quantile(share_n[part], (0.25, 0.5, 0.75)), share_n[part].mean()] for part in parts]
    )


def _extremes(points: Sequence[PointBehaviour]) -> ExtremeImages | None:
    """Return those of the point whose cost varies most; None where all images cost the same."""
    spread = [(float(p.share_n.std()), p) for p in points if p.share_n is not None]
    if not spread:
        return None
    most, shown = max(spread, key=lambda pair: pair[0])
    share_n = shown.share_n
    if most <= 1e-9 or share_n is None:
        return None
    cheapest, most_expensive = extremes_of(share_n)
    return ExtremeImages(
        point=one_line(shown.point.name),
        cheapest=cheapest,
        most_expensive=most_expensive,
        as_cheap=int(np.isclose(share_n, share_n.min(), rtol=1e-9).sum()),
        as_expensive=int(np.isclose(share_n, share_n.max(), rtol=1e-9).sum()),
    )


def _line(behaviour: Behaviour, shown: PointBehaviour) -> dict[str, str]:
    point, record = shown.point, behaviour.record
    dynamics = point.dynamics
    loss = None if dynamics is None else dynamics.shuffled_loss
    correlation = None if dynamics is None else dynamics.difficulty_correlation
    spread = point.macs_std / record.dense_macs if record.dense_macs else None
    return {
        "network": behaviour.label,
        "point": point.name,
        "accuracy %": f"{100 * point.accuracy:.2f}",
        "nFLOPs": f"{point.nflops:.3f}",
        "sd over images": "" if spread is None else f"{spread:.3f}",
        "distinct masks": f"{point.distinct_masks:,}",
        "dropped": f"{100 * point.mean_drop:.1f} %",
        "never run": ", ".join(block.removeprefix("block") for block in point.dead_blocks),
        "shuffled, points": "" if loss is None else f"{-100 * loss:+.2f}",
        "difficulty": "" if correlation is None else f"{correlation:+.2f}",
        "gradient": shown.together.cell,
        "gradient, within stages": shown.together.cell_within,
    }
