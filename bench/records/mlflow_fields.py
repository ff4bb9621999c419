"""What MLflow is told of a record and of a sweep: parameters, metrics and tags.

Owns the names there; talks to no MLflow (tracking.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from bench.records.record import UNKNOWN_RUNTIME, LatencyCell, PointRecord, RunRecord
from bench.records.sweep import SweepRecord

_LONGEST_PARAM = 500


def params(record: RunRecord) -> dict[str, str]:
    """Return the spec as flat MLflow parameters: budget.optimizer.lr and the like."""
    return {
        tame(name): text[:_LONGEST_PARAM]
        for name, text in flat(record.spec.model_dump(mode="json"))
    }


def history(record: RunRecord) -> list[tuple[str, float, int]]:
    """Return (metric, value, step) of every epoch; the step counts epochs over all phases."""
    return [
        (tame(f"train/{name}"), value, step)
        for step, row in enumerate(record.history)
        for name, value in (row.values | {"lr": row.lr, "images_per_s": row.images_per_s}).items()
    ]


def finals(record: RunRecord) -> list[tuple[str, float]]:
    """Return (metric, value) of every operating point that has a name, prefixed by it.

    Without the name they are those of the point's model, and of its run where it has only one.
    """
    return [
        (tame(f"{point.name}/{name}"), value)
        for point in record.points
        if point.name
        for name, value in (measured(point)).items()
    ]


def tags(record: RunRecord) -> dict[str, str]:
    """Return what MLflow's table of runs can be filtered by."""
    values = {
        "skipbench.key": record.spec.key,
        "skipbench.status": record.status,
        "skipbench.reason": record.reason[:_LONGEST_PARAM],
        "skipbench.variant": record.variant,
        "skipbench.synthetic": str(record.synthetic).lower(),
        "mlflow.source.git.commit": str(record.environment.values.get("git_commit") or ""),
    }
    return {name: value for name, value in values.items() if value}


def sweep_params(sweep: SweepRecord) -> dict[str, str]:
    """Return what a sweep was told, as flat parameters."""
    return {tame(name): text[:_LONGEST_PARAM] for name, text in flat(sweep.options)}


def sweep_metrics(sweep: SweepRecord) -> dict[str, float]:
    """Return how many trials ended how, and the best score of each method."""
    counts = Counter(f"trials_{trial.status}" for trial in sweep.trials)
    best: dict[str, float] = {}
    for trial in sweep.trials:
        if trial.run in sweep.chosen.get(trial.method, ()) and trial.score is not None:
            name = tame(f"best_score/{trial.method}")
            best[name] = max(trial.score, best.get(name, trial.score))
    return {**dict(counts), **best}


def measured(point: PointRecord) -> dict[str, float]:
    """Return all numbers of an operating point, on test images and in each runtime."""
    return {
        "accuracy": point.accuracy,
        "nflops": point.nflops,
        "nflops_backbone": point.nflops_backbone,
        "macs": point.macs,
        "params": float(point.params),
        **_dynamics(point),
        **_timed(point.latency),
    }


def _dynamics(point: PointRecord) -> dict[str, float]:
    if point.dynamics is None:
        return {}
    values = {
        "shuffled_accuracy": point.dynamics.shuffled_accuracy,
        "difficulty_correlation": point.dynamics.difficulty_correlation,
    }
    return {name: value for name, value in values.items() if value is not None}


def _timed(cells: Sequence[LatencyCell]) -> dict[str, float]:
    values: dict[str, float] = {}
    for cell in cells:  # as they were measured, whatever the clock said
        suffix = f"b{cell.batch_size}" if cell.scenario == "batch" else "b1"
        suffix = suffix if cell.runtime == UNKNOWN_RUNTIME else f"{cell.runtime}_{suffix}"
        newest = {f"latency_ms_{suffix}": cell.latency_ms, f"speedup_{suffix}": cell.speedup}
        values |= {name: value for name, value in newest.items() if value is not None}
    return values


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (name, text) of all that is nested in a value: budget.optimizer.lr and the like."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, str(value)


def tame(name: str) -> str:
    """Return `name` with only the characters that MLflow takes in keys."""
    return re.sub(r"[^A-Za-z0-9_\-. /]", "_", name).strip("/. ")[:240] or "unnamed"


def epoch_ms(timestamp: str) -> int:
    """Return a record's time as MLflow wants it."""
    return int(datetime.fromisoformat(timestamp).timestamp() * 1000)


def last_step(record: RunRecord) -> int:
    """Return the step of the last epoch."""
    return max(0, len(record.history) - 1)
