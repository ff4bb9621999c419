"""Records as rows: one per operating point, or one for a run that has none.

Owns how a row is made, and which latency cell counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from bench.config import RunSpec, canonical_json, without_seed
from bench.plain_text import one_line
from bench.records.record import LatencyCell, PointRecord, RunRecord
from bench.report.data.row import BATCH_SIZES, Row, in_order

_CARE = {"smoke": 1, "default": 2, "publish": 3}
"""How careful a profile of latency is."""


def rows(records: Iterable[RunRecord]) -> list[Row]:
    """Return one row per operating point, and one row for a run that has none."""
    return _together([row for record in records for row in _rows_of(record)])


def _together(found: list[Row]) -> list[Row]:
    """Fill in what a row owes to the others: its family and its whole cost."""
    by_run = {row.run: row for row in found}
    return [
        replace(_with_whole_cost(row, by_run), family=_family_with_start(row, by_run))
        for row in found
    ]


def _with_whole_cost(row: Row, by_run: Mapping[str, Row]) -> Row:
    """Return the row with its training cost, that of its start included, as far as it is known.

    `outside` says where it began if that cost is not known, else nothing.
    """
    if row.train_epochs is None:
        return row
    before, dense_before = row.pretraining_epochs, row.pretraining_dense_epochs
    outside, start = "", by_run.get(row.pretraining)
    if before is None or dense_before is None:
        before, dense_before = 0, 0.0
        outside = row.start_reason or row.pretraining or "unknown"
        if start is not None and start.train_epochs is not None:
            # What the start began with is not known; what was spent here in between is.
            known = _with_whole_cost(start, by_run)
            before, dense_before = known.total_epochs or 0, known.known_dense_epochs or 0.0
            outside = known.outside or ""
    dense_epochs = (row.train_dense_epochs or 0.0) + dense_before
    return replace(
        row,
        total_epochs=row.train_epochs + before,
        known_dense_epochs=dense_epochs,
        total_dense_epochs=None if outside else dense_epochs,
        outside=outside,
    )


def _family_with_start(row: Row, by_run: Mapping[str, Row]) -> str:
    """Return the family with that of the run it starts from, where that run is at hand."""
    start = by_run.get(row.pretraining)
    return row.family if start is None else _hash([row.family, _family_with_start(start, by_run)])


def _rows_of(record: RunRecord) -> list[Row]:
    shared = _of_run(record)
    points = [_of_point(record, point) for point in record.points] or [{}]
    return [Row(**{k: _tamed(v) for k, v in (shared | of_point).items()}) for of_point in points]


def _tamed(value: Any) -> Any:
    """Return texts plain and on one line, whatever a record holds."""
    if isinstance(value, tuple):
        return tuple(_tamed(item) for item in value)
    return one_line(value) if isinstance(value, str) else value


def _shared(part: BaseModel | None) -> dict[str, Any]:
    """Return the fields of a part of a record that a row has by the same name."""
    known = () if part is None else type(part).model_fields
    return {name: getattr(part, name) for name in Row.__slots__ if name in known}


def _of_run(record: RunRecord) -> dict[str, Any]:
    spec, training, start = record.spec, record.training, record.spec.initial
    # A start of training is no source: only controls are made from a run.
    made = record.role == "control" and start is not None and start.kind == "run"
    found = _shared(record) | {
        "method": spec.method,
        "dataset": spec.dataset.name,
        "backbone": spec.backbone.name,
        "recipe": spec.budget.recipe,
        "seed": spec.seed,
        "source": start.name if made and start is not None else None,
        "family": _family_of(spec),
        "settings": _settings(spec),
        "unchecked": tuple(record.conformance.exempt) if record.conformance else (),
        "pretraining": "none" if start is None else start.name,
    }
    if training is not None:
        found |= _shared(training) | {
            "train_epochs": training.epochs,
            "train_dense_epochs": training.dense_epochs,
            "start_reason": training.pretraining_reason,
        }
    return found


def _family_of(spec: RunSpec) -> str:
    """Return what runs that differ in nothing but the seed have in common, as 12 hex digits.

    Of a run that it starts from, only the name without the seed counts.
    """
    content: dict[str, Any] = spec.model_dump(mode="json", exclude={"seed"})
    if spec.initial is not None and spec.initial.kind == "run":
        content["initial"] = without_seed(spec.initial.name)
    return _hash(content)


def _hash(content: Any) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:12]


def _settings(spec: RunSpec) -> tuple[str, ...]:
    """Return all that a user can set of a run and no column shows, as "key=value"."""
    training = {
        "epochs": spec.budget.epochs,
        "batch_size": spec.budget.batch_size,
        **spec.budget.optimizer.model_dump(mode="json"),
        "held_out": spec.held_out,
        "precision": spec.precision,
        "start": "" if spec.initial is None else without_seed(spec.initial.name),
    }
    code = spec.model_dump(include={"method_version", "method_code"})
    listed = [f"{key}={value}" for key, value in (spec.config | code).items()]
    return (*listed, *(f"train.{key}={value}" for key, value in training.items()))


def _of_point(record: RunRecord, point: PointRecord) -> dict[str, Any]:
    whole = abs(point.macs - record.dense_macs) <= 1e-6 * record.dense_macs
    static = not point.gated_blocks and point.macs_std == 0
    return {
        **_shared(point),
        **_shared(point.dynamics),
        "variant": ", ".join(part for part in (record.variant, point.name) if part),
        "point": point.name,
        "nflops_std": point.macs_std / record.dense_macs if record.dense_macs else None,
        "gated_blocks": len(point.gated_blocks),
        "dense": static and whole and record.role != "control",
        "timings": tuple(
            cell
            for runtime in in_order({cell.runtime for cell in point.latency})
            for size in BATCH_SIZES
            if (cell := newest_cell(point.latency, size, runtime)) is not None
        ),
    }


def newest_cell(cells: Sequence[LatencyCell], batch_size: int, runtime: str) -> LatencyCell | None:
    """Return the cell of this batch size and runtime to be shown: of those made in the way of the
    newest one (lists grow, clocks may go back), that of the most careful profile, and of these the
    newest. A quick look after a careful measurement does not take its place.
    """
    found = [c for c in cells if (c.batch_size, c.runtime) == (batch_size, runtime)]
    alike = [cell for cell in found if how_measured(cell) == how_measured(found[-1])]
    timed = [cell for cell in alike if cell.latency_ms is not None] or alike
    return max(reversed(timed), key=lambda cell: _CARE.get(cell.profile, 0), default=None)


def how_measured(cell: LatencyCell) -> tuple[object, ...]:
    """Return what two cells must share to stand for each other or be put together."""
    return cell.device, cell.threads, cell.runtime
