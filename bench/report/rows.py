"""Records as flat rows: one dictionary per operating point, with keys that stay.

Everything a reader or a script sees of the runs (tables, JSON, figures, pages) starts from these
rows. Owns the keys, the notes on unequal training, and what the index keeps of a record for rows;
owns no rendering.
"""

from __future__ import annotations

import difflib
import hashlib
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from bench.config import RunSpec, canonical_json, without_seed
from bench.errors import ConfigError
from bench.plain_text import one_line
from bench.records.index import Digests, digests
from bench.records.record import (
    UNKNOWN_RUNTIME,
    Dynamics,
    LatencyCell,
    PointRecord,
    RunRecord,
)
from bench.records.store import Problem, RunStore
from bench.report.budgets import budgets_differ, spent_by

Row = dict[str, Any]

KEYS = (
    *("run", "method", "variant", "dataset", "backbone", "recipe", "seed", "accuracy", "nflops"),
    *("nflops_backbone", "macs", "params", "latency_ms_b1", "speedup_b1", "speedup_b256"),
    *("train_epochs", "status", "reason", "runtime"),
)
"""The keys that stay, in their order."""

EXTRAS = (
    *("point", "nflops_std", "params_inference", "distinct_masks", "mean_drop", "dense"),
    *(
        "dead_blocks",
        "dense_macs",
        "test_images",
        "correct",
        "verdict_b1",
        "verdict_b256",
        "latency_device",
        "latency_dense_ms",
    ),
    *(
        "latency_reason",
        "latency_reason_b256",
        "profile_b1",
        "profile_b256",
        "published_epochs",
        "train_dense_epochs",
        "pretraining_dense_epochs",
        "total_dense_epochs",
    ),
    *("pretraining_epochs", "total_epochs", "known_dense_epochs", "forward_only"),
    *(
        "pretraining",
        "start_reason",
        "outside",
        "budget_note",
        "synthetic",
        "reconstructed",
        "unchecked",
    ),
    *("role", "decision", "source", "gated_blocks", "family", "settings"),
    *("shuffled_accuracy", "shuffled_loss", "difficulty_correlation"),
    *("realised_b1", "realised_b256", "speedup_low_b1", "speedup_high_b1"),
    *("speedup_low_b256", "speedup_high_b256", "contended_b1", "contended_b256"),
    *("memory_mib_b1", "memory_mib_b256", "energy_mj_b1", "energy_mj_b256", "first_ms"),
    "by_runtime",
)
"""More about each row; these may change with the version."""


NOT_TIMED = "not timed"
_CARE = {"smoke": 1, "default": 2, "publish": 3}
"""How careful a profile of latency is."""

NOT_APPLICABLE = "not applicable"
"""The status of a control that cannot be made of its source: no failure."""

MAIN_RUNTIME = "eager"
"""The runtime that a report of only one shows, where anything was timed in it."""


def rows(records: Iterable[RunRecord]) -> list[Row]:
    """Return one row per operating point, and one row for a run that has none.

    Times and speed-ups are those of one `runtime`: eager, if the point was timed in it;
    `by_runtime` has those of each. Fractions are 0-1, `macs` per image, latencies milliseconds per
    image; None where a value was not measured. `dense` marks networks that run every block of
    their backbone on every image.
    `realised_*` is the speed-up over the ideal one, 1 / nFLOPs; its interval is that of the
    speed-up times nFLOPs. `memory_mib_*` is the peak of one call, `energy_mj_*` per image. Texts
    are plain and on one line, whatever a record holds.
    """
    return _together([_plain(row) for record in records for row in _rows_of(record)])


class Stored(NamedTuple):
    """The rows of all records of a store, and the records that cannot be read."""

    rows: list[Row]
    problems: list[Problem]


def stored_rows(store: RunStore) -> Stored:
    """Return what `rows` says of all records of `store`; only what has changed is read."""
    keys = (*KEYS, *EXTRAS)
    found = stored_runs(store)
    lists = (values for flat in found.of.values() for values in flat["rows"])
    filled = [dict(zip(keys, values, strict=True)) for values in lists]
    return Stored(_together(filled), found.problems)


def stored_runs(store: RunStore) -> Digests:
    """Return `status`, `variant` and `created` of each run in `store`, and what `rows` are made of;
    only what has changed is read."""
    return digests(store, _flat, name="rows")


def _flat(record: RunRecord) -> dict[str, Any]:
    """Return what tables need of a record; rows without their keys, the same for all."""
    return {
        "status": record.status,
        "variant": record.variant,
        "created": record.created,
        "rows": [[row[key] for key in (*KEYS, *EXTRAS)] for row in map(_plain, _rows_of(record))],
    }


def _together(found: list[Row]) -> list[Row]:
    """Fill in what a row owes to the others: its family, its whole cost, and its budget note."""
    spent = spent_by(found)
    for row in found:
        if row["run"] in spent:
            known = spent[row["run"]]
            row["total_epochs"], row["known_dense_epochs"] = known.epochs, known.dense_epochs
            row["total_dense_epochs"], row["outside"] = known.total, known.outside
            row["forward_only"] = known.forward_only
    costs = _dense_costs(found)
    by_run = {row["run"]: row for row in found}
    families = [_family_with_start(row, by_run) for row in found]
    for row, family in zip(found, families, strict=True):
        row["family"], row["budget_note"] = family, _budget_note(row, costs)
    return found


def _family_with_start(row: Row, by_run: Mapping[str, Row]) -> str:
    """Return the family with that of the run it starts from, where that run is at hand."""
    start = by_run.get(row["pretraining"])
    if start is None:
        return str(row["family"])
    return _short_hash([row["family"], _family_with_start(start, by_run)])


def filter_rows(all_rows: Sequence[Row], expression: str) -> list[Row]:
    """Return the rows for which `expression` holds, such as "method=sgad,seed=0".

    Raises:
        ConfigError: it is not KEY=VALUE, or names an unknown key (the nearest are given).
    """
    conditions = [_condition(part) for part in expression.split(",")]
    return [row for row in all_rows if all(_text(row[key]) == want for key, want in conditions)]


def is_measured(row: Row) -> bool:
    """Whether the row has a place in a comparison: finished, with accuracy and cost."""
    return row["status"] == "finished" and row["accuracy"] is not None


def _plain(row: Row) -> Row:
    return {key: _plain_value(value) for key, value in row.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain_value(item) for item in value]
    return one_line(value) if isinstance(value, str) else value


def _rows_of(record: RunRecord) -> list[Row]:
    return [
        dict.fromkeys((*KEYS, *EXTRAS)) | _of_run(record) | (_of_point(record, point))
        for point in record.points
    ] or [dict.fromkeys((*KEYS, *EXTRAS)) | _of_run(record)]


def _of_run(record: RunRecord) -> Row:
    spec = record.spec
    return {
        "run": record.run,
        "method": spec.method,
        "variant": record.variant,
        "role": record.role,
        "decision": record.decision,
        "source": _source(record),
        "dataset": spec.dataset.name,
        "backbone": spec.backbone.name,
        "recipe": spec.budget.recipe,
        "seed": spec.seed,
        "family": _family_of(spec),
        "settings": _settings(spec),
        "status": record.status,
        "reason": record.reason,
        "dense_macs": record.dense_macs,
        "test_images": record.test_images,
        "synthetic": record.synthetic,
        "reconstructed": list(record.reconstructed),
        "unchecked": list(record.conformance.exempt) if record.conformance else [],
        "pretraining": "none" if spec.initial is None else spec.initial.name,
        **_training(record),
    }


def _family_of(spec: RunSpec) -> str:
    """Return what runs that differ in nothing but the seed have in common, as 12 hex digits.

    Of a run that it starts from, only the name without the seed counts.
    """
    content: dict[str, Any] = spec.model_dump(mode="json", exclude={"seed"})
    if spec.initial is not None and spec.initial.kind == "run":
        content["initial"] = without_seed(spec.initial.name)
    return _short_hash(content)


def _short_hash(content: Any) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:12]


def _settings(spec: RunSpec) -> list[str]:
    """Return all that a user can set of a run and no column shows, as "key=value"."""
    start = "" if spec.initial is None else without_seed(spec.initial.name)
    training = {
        "epochs": spec.budget.epochs,
        "batch_size": spec.budget.batch_size,
        **spec.budget.optimizer.model_dump(mode="json"),
        "held_out": spec.held_out,
        "precision": spec.precision,
        "start": start,
    }
    code = spec.model_dump(include={"method_version", "method_code"})
    listed = [f"{key}={value}" for key, value in (spec.config | code).items()]
    return listed + [f"train.{key}={value}" for key, value in training.items()]


def _source(record: RunRecord) -> str | None:
    """Return the run that a control was made from; a start of training is none."""
    initial = record.spec.initial
    made = record.role == "control" and initial is not None and initial.kind == "run"
    return initial.name if made and initial is not None else None


def _training(record: RunRecord) -> Row:
    training = record.training
    if training is None:
        return {}
    return {
        "train_epochs": training.epochs,
        "published_epochs": training.published_epochs,
        "train_dense_epochs": training.dense_epochs,
        "forward_only": training.forward_only,
        "pretraining_epochs": training.pretraining_epochs,
        "pretraining_dense_epochs": training.pretraining_dense_epochs,
        "start_reason": training.pretraining_reason,
    }


def _of_point(record: RunRecord, point: PointRecord) -> Row:
    same_cost = abs(point.macs - record.dense_macs) <= 1e-6 * record.dense_macs
    return {
        "variant": ", ".join(part for part in (record.variant, point.name) if part),
        "point": point.name,
        "accuracy": point.accuracy,
        "correct": point.correct,
        "nflops": point.nflops,
        "nflops_backbone": point.nflops_backbone,
        "nflops_std": point.macs_std / record.dense_macs if record.dense_macs else None,
        "macs": point.macs,
        "params": point.params,
        "params_inference": point.params_inference,
        "distinct_masks": point.distinct_masks,
        "mean_drop": point.mean_drop,
        "dead_blocks": list(point.dead_blocks),
        "gated_blocks": len(point.gated_blocks),
        **_dynamics(point.dynamics),
        "dense": not point.gated_blocks and same_cost and record.role != "control",
        **_latencies(point),
    }


def _dynamics(dynamics: Dynamics | None) -> Row:
    if dynamics is None:
        return {}
    return {
        "shuffled_accuracy": dynamics.shuffled_accuracy,
        "shuffled_loss": dynamics.shuffled_loss,
        "difficulty_correlation": dynamics.difficulty_correlation,
    }


def _latencies(point: PointRecord) -> Row:
    untimed: Row = {"latency_reason": NOT_TIMED, "latency_reason_b256": NOT_TIMED}
    each = {name: _timed_in(point, name) for name in runtimes_of(point.latency)}
    if not each:
        return untimed
    shown = ("speedup", "speedup_low", "speedup_high", "verdict", "contended", "realised")
    by_runtime = {
        name: {key: value for key, value in cells.items() if key.rpartition("_")[0] in shown}
        for name, cells in each.items()
    }
    main = next(iter(each))
    measured = {**untimed, "runtime": main, "by_runtime": by_runtime, **each[main]}
    large, alone = newest_cell(point.latency, 256, main), newest_cell(point.latency, 1, main)
    if large is not None:
        measured["latency_reason_b256"] = large.reason
    if alone is None:
        return measured
    return measured | {
        "latency_ms_b1": alone.latency_ms,
        "first_ms": alone.first_ms,
        "latency_device": f"{alone.device}, {_threads(alone.threads)}",
        "latency_dense_ms": alone.dense_ms,
        "latency_reason": alone.reason,
    }


def _timed_in(point: PointRecord, runtime: str) -> Row:
    measured: Row = {}
    for size in (1, 256):
        cell = newest_cell(point.latency, size, runtime)
        if cell is not None:
            measured |= {f"{key}_b{size}": value for key, value in _speed(cell, point).items()}
    return measured


def _speed(cell: LatencyCell, point: PointRecord) -> Row:
    ratio, interval = cell.speedup, cell.speedup_interval
    return {
        "speedup": ratio,
        "speedup_low": None if interval is None else interval.low,
        "speedup_high": None if interval is None else interval.high,
        "realised": None if ratio is None else ratio * point.nflops,
        "verdict": cell.verdict,
        "profile": None if cell.latency_ms is None else cell.profile,
        "contended": None if cell.latency_ms is None else cell.contended,
        "memory_mib": cell.memory_mib,
        "energy_mj": cell.energy_mj_per_image,
    }


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def newest_cell(cells: Sequence[LatencyCell], batch_size: int, runtime: str) -> LatencyCell | None:
    """Return the cell of this batch size and runtime to be shown: of those made in the way of the
    newest one (lists grow, clocks may go back), that of the most careful profile, and of these the
    newest.

    A quick look after a careful measurement does not take its place.
    """
    found = [c for c in cells if (c.batch_size, c.runtime) == (batch_size, runtime)]
    alike = [cell for cell in found if how_measured(cell) == how_measured(found[-1])]
    timed = [cell for cell in alike if cell.latency_ms is not None] or alike
    return max(reversed(timed), key=lambda cell: _CARE.get(cell.profile, 0), default=None)


def runtimes_of(cells: Iterable[LatencyCell]) -> list[str]:
    """Return the runtimes of some cells: first the one that a report of only one shows, eager,
    which people have; last that of cells from before runtimes were kept."""
    found = {cell.runtime for cell in cells}
    return sorted(found, key=lambda name: (name == UNKNOWN_RUNTIME, name != MAIN_RUNTIME, name))


def main_runtime(cells: Iterable[LatencyCell]) -> str:
    """Return the runtime that a report of only one shows."""
    return next(iter(runtimes_of(cells)), MAIN_RUNTIME)


def how_measured(cell: LatencyCell) -> tuple[object, ...]:
    """Return what two cells must share to stand for each other or be put together."""
    return cell.device, cell.threads, cell.runtime


def _dense_costs(all_rows: Iterable[Row]) -> dict[tuple[object, ...], float]:
    """Return the dense networks' median training cost, where known, by what must be the same."""
    found: dict[tuple[object, ...], list[float]] = defaultdict(list)
    for row in all_rows:
        if row["dense"] and row["total_dense_epochs"]:
            found[_setting(row)].append(row["total_dense_epochs"])
    return {setting: statistics.median(costs) for setting, costs in found.items()}


def _setting(row: Row) -> tuple[object, ...]:
    return row["dataset"], row["backbone"], row["recipe"], row["forward_only"]


def _budget_note(row: Row, dense_costs: Mapping[tuple[object, ...], float]) -> str:
    """Say how the training cost of `row` compares with the dense network's, if it is not equal."""
    if not is_measured(row) or (row["dense"] and not row["outside"]):
        return ""
    if row["outside"]:
        return f"pretraining of unknown cost: {row['outside']}"
    own, usual = row["total_dense_epochs"], dense_costs.get(_setting(row))
    if usual is None:
        return "no dense run of the same recipe"
    if not budgets_differ([own, usual]):
        return ""
    return f"trained for {own / usual:.2g} times the dense network's cost"


def _condition(part: str) -> tuple[str, str]:
    key, equals, value = (piece.strip() for piece in part.partition("="))
    if not equals:
        raise ConfigError(
            f"The filter '{part}' is not KEY=VALUE.", hint="Example: --filter method=sgad,seed=0"
        )
    known = (*KEYS, *EXTRAS)
    if key not in known:
        near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
        raise ConfigError(
            f"There is no key '{key}' to filter by.",
            hint=f"Did you mean {', '.join(near)}?" if near else f"Keys: {', '.join(KEYS)}.",
        )
    return key, _text(value)


def _text(value: object) -> str:
    """Return `value` so that 1, "1" and "1.0" are the same, and None is the empty text."""
    if value is None:
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    try:
        return repr(float(text))
    except ValueError:
        return text
