"""Does cost follow difficulty? Correlates the MACs of images with the loss of a dense network.

Needs no network: both lie in the arrays of finished runs. Owns which dense run judges which record.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy.typing as npt

from bench.analysis.statistics import rank_correlation
from bench.errors import RecordError
from bench.records.arrays import numbers_in, read_arrays
from bench.records.record import PointRecord, RunRecord
from bench.records.store import RunStore


def judge(records: Sequence[RunRecord], store: RunStore) -> list[RunRecord]:
    """Return the records, those of dynamic networks with the correlation added and saved.

    Difficulty is the loss of the dense network of the same data and backbone, of the same recipe
    and seed where there is one. Records that have a correlation stay as they are.
    """
    waiting = [r for r in records if any(_is_open(point) for point in r.points)]
    if not waiting:
        return list(records)
    dense = [r for r in store.read_each([]) if r.role == "dense" and r.points]
    judged: dict[str, RunRecord] = {}
    for record in waiting:
        # With damaged arrays, or when another process does the run again, it stays open.
        with suppress(RecordError):
            judged[record.run] = store.amend(record.run, partial(_judged, dense, store))
    return [judged.get(record.run, record) for record in records]


def _is_open(point: PointRecord) -> bool:
    return point.dynamics is not None and point.dynamics.difficulty_correlation is None


def _judged(dense: Sequence[RunRecord], store: RunStore, record: RunRecord) -> RunRecord:
    """Return a record with the correlation of those operating points that have none yet."""
    points = list(record.points)
    for number, point in enumerate(points):
        if not _is_open(point) or point.dynamics is None:
            continue
        arrays = read_arrays(store.folder_of(record), point.arrays_file)
        macs_n = numbers_in(arrays, "macs_n", axes=1)
        loss_n, name = _difficulty(record, dense, store, images=len(macs_n))
        value = None if loss_n is None else rank_correlation(macs_n, loss_n)
        why = "every image costs the same" if name else "no dense run of this data and backbone"
        found = {
            "difficulty_correlation": value,
            "difficulty_of": name,
            "difficulty_reason": why if value is None else "",
        }
        dynamics = point.dynamics.model_copy(update=found)
        points[number] = point.model_copy(update={"dynamics": dynamics})
    return record.model_copy(update={"points": tuple(points)})


def _difficulty(
    record: RunRecord, dense: Sequence[RunRecord], store: RunStore, *, images: int
) -> tuple[npt.NDArray[Any] | None, str]:
    wanted = record.spec

    def nearness(other: RunRecord) -> tuple[bool, bool, str]:
        spec = other.spec
        same_recipe = spec.budget.recipe == wanted.budget.recipe
        return same_recipe, spec.seed == wanted.seed, other.created

    same = [
        other
        for other in dense
        if (other.spec.dataset, other.spec.backbone) == (wanted.dataset, wanted.backbone)
    ]
    for other in sorted(same, key=nearness, reverse=True):
        try:
            arrays = read_arrays(store.folder_of(other), other.points[0].arrays_file)
            loss_n = numbers_in(arrays, "loss_n", axes=1)
        except RecordError:
            continue
        if len(loss_n) == images:
            return loss_n.astype(float), other.run
    return None, ""
