"""Does cost follow difficulty? Correlates the MACs of images with the loss of a dense network.

Needs no network: both lie in the arrays of finished runs. Owns which dense run judges which record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy.typing as npt

from bench.analysis.statistics import rank_correlation
from bench.errors import RecordError
from bench.records.arrays import numbers_in, read_arrays
from bench.records.record import Dynamics, PointRecord, RunRecord
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
            found = _judged(record, dense, store)
            judged[record.run] = store.amend(record.run, partial(_with, found))
    return [judged.get(record.run, record) for record in records]


def _with(found: Mapping[str, Dynamics], record: RunRecord) -> RunRecord:
    """Return a record with what was found, beside whatever others have added meanwhile."""
    points = (
        p.model_copy(update={"dynamics": found.get(p.name, p.dynamics)}) if _is_open(p) else p
        for p in record.points
    )
    return record.model_copy(update={"points": tuple(points)})


def _is_open(point: PointRecord) -> bool:
    return point.dynamics is not None and point.dynamics.difficulty_correlation is None


def _judged(record: RunRecord, dense: Sequence[RunRecord], store: RunStore) -> dict[str, Dynamics]:
    """Return what was found of the operating points that have no correlation yet, by name."""
    folder = store.folder_of(record)
    macs = {
        point.name: numbers_in(read_arrays(folder, point.arrays_file), "macs_n", axes=1)
        for point in record.points
        if _is_open(point)
    }
    images = max(map(len, macs.values()))
    loss_n, name = _difficulty(record, dense, store, images=images)
    found: dict[str, Dynamics] = {}
    for point in record.points:
        if point.dynamics is not None and point.name in macs:
            value = None if loss_n is None else rank_correlation(macs[point.name], loss_n)
            why = "every image costs the same" if name else "no dense run of this data and backbone"
            told = {"difficulty_of": name, "difficulty_reason": why if value is None else ""}
            told_all = {"difficulty_correlation": value, **told}
            found[point.name] = point.dynamics.model_copy(update=told_all)
    return found


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
