"""Does cost follow difficulty? Correlates the MACs of images with the loss of a dense network.

Needs no network: both lie in the arrays of finished runs. Owns which dense run judges which record.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy.typing as npt

from bench.analysis.statistics import rank_correlation
from bench.config import RunSpec
from bench.errors import RecordError
from bench.records.arrays import numbers_in, read_arrays
from bench.records.index import digests
from bench.records.record import Dynamics, PointRecord, RunRecord
from bench.records.store import RunStore

Judge = dict[str, Any]


def judge(records: Sequence[RunRecord], store: RunStore) -> list[RunRecord]:
    """Return the records, those of dynamic networks with the correlation added and saved.

    Difficulty is the loss of the dense network of the same data and backbone, of the same recipe
    and seed where there is one. Records that have a correlation stay as they are.
    """
    waiting = [r for r in records if any(_is_open(point) for point in r.points)]
    if not waiting:
        return list(records)
    dense = [entry for entry in digests(store, _as_judge, name="dense").of.values() if entry]
    judged: dict[str, RunRecord] = {}
    for record in waiting:
        # With damaged arrays, or when another process does the run again, it stays open.
        with suppress(RecordError):
            judged[record.run] = _kept(_judged(record, dense, store), store)
    return [judged.get(record.run, record) for record in records]


def _kept(judged: RunRecord, store: RunStore) -> RunRecord:
    """Save what was found, beside whatever others have added meanwhile; return the record."""
    found = {point.name: point.dynamics for point in judged.points}

    def change(now: RunRecord) -> RunRecord:
        points = (
            p.model_copy(update={"dynamics": found.get(p.name, p.dynamics)}) if _is_open(p) else p
            for p in now.points
        )
        return now.model_copy(update={"points": tuple(points)})

    return store.amend(judged.run, change)


def _is_open(point: PointRecord) -> bool:
    return point.dynamics is not None and point.dynamics.difficulty_correlation is None


def _is_dense(record: RunRecord) -> bool:
    # Stochastic depth runs everything too, but is here to be judged.
    return record.role != "control" and any(
        not point.gated_blocks and point.macs == record.dense_macs for point in record.points
    )


def _as_judge(record: RunRecord) -> Judge:
    """Return what the choice of a judge depends on, and where its losses lie; {} if not dense."""
    if not _is_dense(record):
        return {}
    spec = record.spec
    return {
        "run": record.run,
        "of": _subject(spec),
        "recipe": spec.budget.recipe,
        "seed": spec.seed,
        "created": record.created,
        "arrays_file": record.points[0].arrays_file,
    }


def _subject(spec: RunSpec) -> Judge:
    return {part: getattr(spec, part).model_dump(mode="json") for part in ("dataset", "backbone")}


def _judged(record: RunRecord, dense: Sequence[Judge], store: RunStore) -> RunRecord:
    macs = {
        point.name: _macs_of(record, point, store) for point in record.points if _is_open(point)
    }
    images = max(map(len, macs.values()))
    loss_n, name = _difficulty(record, dense, store, images=images)
    points: list[PointRecord] = []
    for point in record.points:
        dynamics = point.dynamics
        if dynamics is not None and _is_open(point):
            found = None if loss_n is None else rank_correlation(macs[point.name], loss_n)
            dynamics = _with_correlation(dynamics, found, name)
        points.append(point.model_copy(update={"dynamics": dynamics}))
    return record.model_copy(update={"points": tuple(points)})


def _with_correlation(dynamics: Dynamics, found: float | None, name: str) -> Dynamics:
    reason = ""
    if found is None:
        reason = "every image costs the same" if name else "no dense run of this data and backbone"
    return dynamics.model_copy(
        update={
            "difficulty_correlation": found,
            "difficulty_of": name,
            "difficulty_reason": reason,
        }
    )


def _macs_of(record: RunRecord, point: PointRecord, store: RunStore) -> npt.NDArray[Any]:
    arrays = read_arrays(store.folder_of(record), point.arrays_file)
    return numbers_in(arrays, "macs_n", axes=1)


def _difficulty(
    record: RunRecord, dense: Sequence[Judge], store: RunStore, *, images: int
) -> tuple[npt.NDArray[Any] | None, str]:
    subject = _subject(record.spec)
    same = [other for other in dense if other["of"] == subject]
    same.sort(key=lambda other: (_likeness(other, record), other["created"]), reverse=True)
    for other in same:
        try:
            arrays = read_arrays(store.runs_dir / other["run"], other["arrays_file"])
            loss_n = numbers_in(arrays, "loss_n", axes=1)
        except RecordError:
            continue
        if len(loss_n) == images:
            return loss_n.astype(float), other["run"]
    return None, ""


def _likeness(other: Judge, record: RunRecord) -> tuple[bool, bool]:
    spec = record.spec
    return other["recipe"] == spec.budget.recipe, other["seed"] == spec.seed
