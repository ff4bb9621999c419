"""MLflow as a sink: finished records are copied into it, by the driver only.

The record on disk is the truth. A missing or unreachable MLflow gives a TrackingResult that says
so and never an exception; what was not logged can be logged later by `sync`, and what is logged
already is left alone. Owns the mapping from a record to params, metrics, tags and artifacts.
"""

from __future__ import annotations

import logging
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, StorageError
from bench.records.database import DATABASE_FILE, is_damaged, set_database_aside, uri_of
from bench.records.document import content_sha256
from bench.records.lock import locked
from bench.records.record import LatencyCell, PointRecord, RunRecord
from bench.records.store import INFERENCE_FILE, MASKS_FIGURE, RECORD_FILE, RunStore
from bench.storage import make_folder

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run
    from mlflow.tracking import MlflowClient

EXPERIMENT = "skipbench"
RUN_TAG, SHA_TAG = "skipbench.run", "skipbench.sha256"
_LOCK_FILE, _PATIENCE_S = ".mlflow.lock", 120.0
_LONGEST_PARAM = 500
_METRICS_PER_BATCH, _PARAMS_PER_BATCH = 900, 90
# An absent server must not hold up a run: MLflow alone would try for minutes.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


@dataclass(frozen=True, slots=True)
class TrackingResult:
    """Whether MLflow now holds the record, and in words what was done or why not."""

    logged: bool
    detail: str


def default_uri(results_dir: Path) -> str:
    """Return $MLFLOW_TRACKING_URI, else the database in the results folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or uri_of(results_dir)


def log_record(
    record: RunRecord,
    store_folder: Path,
    *,
    results_dir: Path,
    tracking_uri: str | None = None,
    figures: Sequence[Path] = (),
) -> TrackingResult:
    """Copy `record` into MLflow unless it is there already; never raises.

    A record that has changed updates its MLflow run. `store_folder` holds the record's files;
    its record.json, inference weights and figure of the masks, where present, and `figures`
    become artifacts.
    """
    job = _Job(record, _files(store_folder, figures))
    return _log_all([job], tracking_uri or default_uri(results_dir), results_dir)[0]


def sync(store: RunStore, *, tracking_uri: str | None = None) -> dict[str, TrackingResult]:
    """Log every readable record of `store` that MLflow lacks or holds in an older state.

    A damaged database in the results folder is set aside and built anew, for it holds nothing that
    the records do not. Returns what happened to each run, by name, and under "mlflow.db" what
    happened to that; never raises for MLflow's sake.
    """
    uri = tracking_uri or default_uri(store.results_dir)
    own = uri == uri_of(store.results_dir)
    results = _database_mended(store.results_dir) if own else {}
    return results | log_records(store.load_all().records, store, tracking_uri=uri)


def log_records(
    records: Sequence[RunRecord], store: RunStore, *, tracking_uri: str | None = None
) -> dict[str, TrackingResult]:
    """Log `records` of `store` over one connection; the rest as `sync`."""
    jobs = [_Job(record, _files(store.folder_of(record), ())) for record in records]
    results = _log_all(jobs, tracking_uri or default_uri(store.results_dir), store.results_dir)
    return {job.record.run: result for job, result in zip(jobs, results, strict=True)}


@dataclass(frozen=True, slots=True)
class _Job:
    record: RunRecord
    files: list[Path]


def _log_all(jobs: Sequence[_Job], uri: str, results_dir: Path) -> list[TrackingResult]:
    with _quiet():
        try:
            # Of two at once both would find a run missing, or the database not made yet.
            with _alone(results_dir):
                client, experiment = _connect(uri, results_dir)
                return _log_each(client, experiment, jobs, uri, results_dir)
        except Exception as error:
            # One answer for all: an absent server is not asked again for every record.
            return [_refusal(uri, error, results_dir)] * len(jobs)


def _log_each(
    client: MlflowClient,
    experiment: Experiment,
    jobs: Sequence[_Job],
    uri: str,
    results_dir: Path,
) -> list[TrackingResult]:
    results: list[TrackingResult] = []
    for job in jobs:
        try:
            results.append(_log(client, experiment, job.record, files=job.files))
        except Exception as error:
            # A sink may fail in any way of its own; none of them is worth a finished training.
            results.append(_refusal(uri, error, results_dir))
            if not _answers(client):
                break
    return results + results[-1:] * (len(jobs) - len(results))


def _answers(client: MlflowClient) -> bool:
    try:
        return client.get_experiment_by_name(EXPERIMENT) is not None
    except Exception:
        return False


def _alone(results_dir: Path) -> AbstractContextManager[None]:
    folder = make_folder(results_dir)
    return locked(folder / _LOCK_FILE, note=lambda _: None, patience_s=_PATIENCE_S)


def _database_mended(results_dir: Path) -> dict[str, TrackingResult]:
    """Set the database aside if it is damaged; say so."""
    if not is_damaged(results_dir):
        return {}
    try:
        with _alone(results_dir):
            aside = set_database_aside(results_dir)
    except StorageError as error:
        return {DATABASE_FILE: TrackingResult(False, f"damaged: {error.message}")}
    name = "gone" if aside is None else aside.name
    return {DATABASE_FILE: TrackingResult(True, f"damaged, set aside as {name}; built anew")}


def _refusal(uri: str, error: Exception, results_dir: Path) -> TrackingResult:
    if isinstance(error, ImportError):
        return TrackingResult(False, "MLflow is not installed; the record on disk is complete")
    if isinstance(error, BenchError):
        return TrackingResult(False, error.message)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if uri == uri_of(results_dir) and is_damaged(results_dir):
        reason = "the database is damaged; the records are complete, and a sync builds it anew"
    return TrackingResult(False, f"MLflow at {uri} did not take the record: {reason[:200]}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow from printing, warning and phoning home while it is loaded and used."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _connect(uri: str, results_dir: Path) -> tuple[MlflowClient, Experiment]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        # Without a location, artifacts of a local database land in the current directory.
        remote = uri.startswith(("http:", "https:", "databricks"))
        location = None if remote else (results_dir.absolute() / "mlruns").as_uri()
        client.create_experiment(EXPERIMENT, artifact_location=location)
        experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return client, experiment


def _log(
    client: MlflowClient, experiment: Experiment, record: RunRecord, *, files: Sequence[Path]
) -> TrackingResult:
    sha = content_sha256(record)
    known = _logged_run(client, experiment, record.run)
    if known is not None and known.data.tags.get(SHA_TAG) == sha:
        return TrackingResult(True, "already logged")
    run = known or client.create_run(
        experiment.experiment_id,
        start_time=_epoch_ms(record.created),
        run_name=record.run,
        tags={RUN_TAG: record.run},
    )
    _write(client, run.info.run_id, record, files=files)
    # Last, so that a copy broken off half way is taken up again.
    client.set_tag(run.info.run_id, SHA_TAG, sha)
    return TrackingResult(True, "updated" if known else "logged")


def _logged_run(client: MlflowClient, experiment: Experiment, name: str) -> Run | None:
    # Names of runs hold letters, digits and ._- only, so the quotes need no escape.
    found = client.search_runs(
        [experiment.experiment_id], f"tags.`{RUN_TAG}` = '{name}'", max_results=1
    )
    return found[0] if found else None


def _write(client: MlflowClient, run_id: str, record: RunRecord, *, files: Sequence[Path]) -> None:
    from mlflow.entities import Metric, Param, RunTag

    created = _epoch_ms(record.created)
    metrics = [Metric(name, value, created, step) for name, value, step in history(record)]
    now = _later_than_before(client, run_id, record)
    metrics += [Metric(name, value, now, _last_step(record)) for name, value in finals(record)]
    for start in range(0, len(metrics), _METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_BATCH])
    parameters = [Param(name, value) for name, value in params(record).items()]
    for start in range(0, len(parameters), _PARAMS_PER_BATCH):
        client.log_batch(run_id, params=parameters[start : start + _PARAMS_PER_BATCH])
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags(record).items()])
    for path in files:
        client.log_artifact(run_id, str(path))
    status = "FINISHED" if record.status == "finished" else "FAILED"
    client.set_terminated(run_id, status, end_time=created + int(record.wall_s * 1000))


def _later_than_before(client: MlflowClient, run_id: str, record: RunRecord) -> int:
    """Return the time in ms, or just after what was logged: MLflow shows the latest, by clocks."""
    now = int(time.time() * 1000)
    for name, _ in finals(record)[:1]:
        times = [metric.timestamp for metric in client.get_metric_history(run_id, name)]
        now = max([now, *(at + 1 for at in times)])
    return now


def params(record: RunRecord) -> dict[str, str]:
    """Return the spec as flat MLflow parameters: budget.optimizer.lr and the like."""
    return {
        _tame(name): text[:_LONGEST_PARAM]
        for name, text in _flatten(record.spec.model_dump(mode="json"))
    }


def history(record: RunRecord) -> list[tuple[str, float, int]]:
    """Return (metric, value, step) of every epoch; the step counts epochs over all phases."""
    return [
        (_tame(f"train/{name}"), value, step)
        for step, row in enumerate(record.history)
        for name, value in (row.values | {"lr": row.lr, "images_per_s": row.images_per_s}).items()
    ]


def finals(record: RunRecord) -> list[tuple[str, float]]:
    """Return (metric, value) of every operating point, prefixed by the name of the point."""
    return [
        (_tame(f"{point.name}/{name}" if point.name else name), value)
        for point in record.points
        for name, value in (_measured(point) | _timed(point.latency)).items()
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


def _measured(point: PointRecord) -> dict[str, float]:
    return {
        "accuracy": point.accuracy,
        "nflops": point.nflops,
        "nflops_backbone": point.nflops_backbone,
        "macs": point.macs,
        "params": float(point.params),
        **_dynamics(point),
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
        newest = {f"latency_ms_{suffix}": cell.latency_ms, f"speedup_{suffix}": cell.speedup}
        values |= {name: value for name, value in newest.items() if value is not None}
    return values


def _files(folder: Path, figures: Sequence[Path]) -> list[Path]:
    own = [folder / name for name in (RECORD_FILE, INFERENCE_FILE, MASKS_FIGURE)]
    candidates = [*own, *figures]
    return [path for path in candidates if path.is_file()]


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, str(value)


def _tame(name: str) -> str:
    """Return `name` with only the characters that MLflow takes in keys."""
    return re.sub(r"[^A-Za-z0-9_\-. /]", "_", name).strip("/. ")[:240] or "unnamed"


def _epoch_ms(timestamp: str) -> int:
    return int(datetime.fromisoformat(timestamp).timestamp() * 1000)


def _last_step(record: RunRecord) -> int:
    return max(0, len(record.history) - 1)
