"""MLflow as a sink: finished records are copied into it, by the driver only.

The record on disk is the truth. A missing or unreachable MLflow gives a TrackingResult that says
so and never an exception; what was not logged can be logged later by `sync`, and what is logged
already is left alone. A sweep is a parent run and its trials are its children. Owns the talk with
MLflow; what it is told of a record is mlflow_fields.py's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError, RecordError, StorageError
from bench.records.database import DATABASE_FILE, is_damaged, set_database_aside, uri_of
from bench.records.document import content_sha256
from bench.records.lock import locked
from bench.records.machine_load import Sample
from bench.records.mlflow_connection import (
    EXPERIMENT,
    Deleted,
    as_default,
    connect,
    default_uri,
    quiet,
    without_password,
)
from bench.records.mlflow_fields import (
    epoch_ms,
    finals,
    history,
    last_step,
    params,
    sweep_metrics,
    sweep_params,
    tags,
)
from bench.records.mlflow_models import (
    Registered,
    log_inputs,
    log_models,
    models_of,
    register,
)
from bench.records.record import RunRecord
from bench.records.store import INFERENCE_FILE, MASKS_FIGURE, RECORD_FILE, RunStore
from bench.records.sweep import SweepRecord, load_sweeps
from bench.storage import make_folder

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

RUN_TAG, SHA_TAG = "skipbench.run", "skipbench.sha256"
LAYOUT_TAG, LAYOUT = "skipbench.layout", "2"
"""Of what a run has in MLflow. Runs without it are older than models and data sets there."""
SWEEP_TAG, PARENT_TAG = "skipbench.sweep", "mlflow.parentRunId"
_LOCK_FILE, _PATIENCE_S = ".mlflow.lock", 120.0
_PAGE = 1000
_METRICS_PER_BATCH, _PARAMS_PER_BATCH = 900, 90


@dataclass(frozen=True, slots=True)
class TrackingResult:
    """Whether MLflow now holds the record, and in words what was done or why not."""

    logged: bool
    detail: str


def sync(store: RunStore, *, tracking_uri: str | None = None) -> dict[str, TrackingResult]:
    """Log every readable record of `store` that MLflow lacks or holds in an older state.

    An experiment that was deleted in MLflow is restored.
    A damaged database in the results folder is set aside and built anew, for it holds nothing that
    the records do not. Returns what happened to each run, by name, and under "mlflow.db" what
    happened to that; never raises for MLflow's sake.
    """
    uri = tracking_uri or default_uri(store.results_dir)
    own = uri == uri_of(store.results_dir)
    results = _database_mended(store.results_dir) if own else {}
    sweeps, _ = load_sweeps(store.results_dir)
    records = store.load_all().records
    return results | log_records(records, store, sweeps=sweeps, tracking_uri=uri, deleted="restore")


def log_records(
    records: Sequence[RunRecord],
    store: RunStore,
    *,
    sweeps: Sequence[SweepRecord] = (),
    tracking_uri: str | None = None,
    deleted: Deleted = "refuse",
    load: Sequence[Sample] = (),
) -> dict[str, TrackingResult]:
    """Log `records` of `store` over one connection; the rest as `sync`.

    `deleted` says what to do where the experiment was deleted in MLflow; `load` is that of the
    machine while runs were done.
    Those that are trials of one of `sweeps` become children of its run; of several, the first's.
    """
    parents = {trial.run: s for s in reversed(sweeps) for trial in s.trials if trial.run}
    jobs = [
        _Job(record, _files(store.folder_of(record)), parents.get(record.run), load)
        for record in records
    ]
    uri = tracking_uri or default_uri(store.results_dir)
    results = _log_all(jobs, uri, store.results_dir, deleted=deleted)
    return {job.record.run: result for job, result in zip(jobs, results, strict=True)}


def register_point(
    record: RunRecord, point: str, onnx_file: Path, *, store: RunStore
) -> Registered:
    """Log a record if it is not, and register the model of one of its operating points.

    Raises:
        RecordError: MLflow did not take it; the message says why.
    """
    logged = log_records([record], store)[record.run]
    if not logged.logged:
        raise RecordError(logged.detail, hint="The record on disk is complete.")
    uri = default_uri(store.results_dir)
    with quiet():
        try:
            client, experiment_id = connect(uri, store.results_dir, deleted="refuse")
            run = _known_runs(client, experiment_id)[record.run]
            with as_default(uri):
                return register(client, models_of(client, run)[point], record, onnx_file)
        except Exception as error:
            refused = _refusal(uri, error, store.results_dir).detail
            raise RecordError(refused, hint="The record on disk is complete.") from error


@dataclass(frozen=True, slots=True)
class _Job:
    record: RunRecord
    files: list[Path]
    sweep: SweepRecord | None
    load: Sequence[Sample]


@dataclass(frozen=True, slots=True)
class _Place:
    """One experiment of an MLflow, and the runs in it: (run, sha256) tags by name of the run."""

    client: MlflowClient
    experiment_id: str
    uri: str
    results_dir: Path
    known: dict[str, Run]


def _log_all(
    jobs: Sequence[_Job], uri: str, results_dir: Path, *, deleted: Deleted
) -> list[TrackingResult]:
    with quiet():
        try:
            # Of two at once both would find a run missing, or the database not made yet.
            with _alone(results_dir):
                client, experiment_id = connect(uri, results_dir, deleted=deleted)
                known = _known_runs(client, experiment_id)
                return _log_each(jobs, _Place(client, experiment_id, uri, results_dir, known))
        except Exception as error:
            # One answer for all: an absent server is not asked again for every record.
            return [_refusal(uri, error, results_dir)] * len(jobs)


def _log_each(jobs: Sequence[_Job], place: _Place) -> list[TrackingResult]:
    sweeps = {job.sweep.name: job.sweep for job in jobs if job.sweep is not None}
    parents = {name: _log_sweep(sweep, place) for name, sweep in sweeps.items()}
    results: list[TrackingResult] = []
    for job in jobs:
        parent = None if job.sweep is None else parents[job.sweep.name]
        try:
            results.append(_log(job, place, parent=parent))
        except Exception as error:
            # A sink may fail in any way of its own; none of them is worth a finished training.
            results.append(_refusal(place.uri, error, place.results_dir))
            if not _answers(place.client):
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
        missing = (error.name or "mlflow").partition(".")[0]
        needs = (
            "MLflow"
            if missing == "mlflow"
            else f"'{missing}', which MLflow needs for that address,"
        )
        return TrackingResult(False, f"{needs} is not installed; the record on disk is complete")
    if isinstance(error, BenchError):
        return TrackingResult(False, error.message)
    said = without_password(str(error), uri).strip()
    reason = (said.splitlines() or [type(error).__name__])[0]
    if uri == uri_of(results_dir) and is_damaged(results_dir):
        reason = "the database is damaged; the records are complete, and a sync builds it anew"
    place = without_password(uri, uri)
    return TrackingResult(False, f"MLflow at {place} did not take the record: {reason[:200]}")


def _known_runs(client: MlflowClient, experiment_id: str) -> dict[str, Run]:
    """Return what is logged already by its name here: one question for thousands of records."""
    known: dict[str, Run] = {}
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], max_results=_PAGE, page_token=token)
        for run in page:
            name = run.data.tags.get(RUN_TAG) or run.data.tags.get(SWEEP_TAG)
            if name is not None:
                known.setdefault(name, run)
        token = page.token
        if not token:
            return known


def _log(job: _Job, place: _Place, *, parent: str | None) -> TrackingResult:
    record, client = job.record, place.client
    sha, known = content_sha256(record), place.known.get(record.run)
    orphan = parent is not None and (known is None or PARENT_TAG not in known.data.tags)
    told = {} if known is None else known.data.tags
    if (told.get(SHA_TAG), told.get(LAYOUT_TAG)) == (sha, LAYOUT) and not orphan:
        return TrackingResult(True, "already logged")
    run = known or client.create_run(
        place.experiment_id,
        start_time=epoch_ms(record.created),
        run_name=record.run,
        tags={RUN_TAG: record.run},
    )
    place.known[record.run] = run
    if orphan and parent is not None:
        client.set_tag(run.info.run_id, PARENT_TAG, parent)
    _write(client, run, job)
    # Last, so that a copy broken off half way is taken up again.
    client.set_tag(run.info.run_id, LAYOUT_TAG, LAYOUT)
    client.set_tag(run.info.run_id, SHA_TAG, sha)
    return TrackingResult(True, "updated" if known else "logged")


def _log_sweep(sweep: SweepRecord, place: _Place) -> str:
    """Log a sweep as the parent of its trials; return the id of its run."""
    from mlflow.entities import Metric, Param, RunTag

    client, known = place.client, place.known.get(sweep.name)
    run = known or client.create_run(
        place.experiment_id,
        start_time=epoch_ms(sweep.created),
        run_name=sweep.name,
        tags={SWEEP_TAG: sweep.name},
    )
    place.known[sweep.name] = run
    run_id, now = str(run.info.run_id), int(time.time() * 1000)
    if known is None:
        parameters = [Param(name, value) for name, value in sweep_params(sweep).items()]
        for start in range(0, len(parameters), _PARAMS_PER_BATCH):
            client.log_batch(run_id, params=parameters[start : start + _PARAMS_PER_BATCH])
    metrics = [Metric(name, value, now, 0) for name, value in sweep_metrics(sweep).items()]
    told = {"skipbench.criterion": sweep.criterion, "skipbench.chosen": str(sweep.chosen)}
    client.log_batch(run_id, metrics=metrics, tags=[RunTag(*item) for item in told.items()])
    client.set_terminated(run_id, "FINISHED" if sweep.ended else "KILLED")
    return run_id


def _files(folder: Path) -> list[Path]:
    candidates = [folder / name for name in (RECORD_FILE, INFERENCE_FILE, MASKS_FIGURE)]
    return [path for path in candidates if path.is_file()]


def _write(client: MlflowClient, run: Run, job: _Job) -> None:
    from mlflow.entities import Metric, Param, RunTag

    run_id, record = str(run.info.run_id), job.record
    created = epoch_ms(record.created)
    ended = created + int(record.wall_s * 1000)
    metrics = [Metric(name, value, created, step) for name, value, step in history(record)]
    now = _later_than_before(client, run_id, record)
    metrics += [Metric(name, value, now, last_step(record)) for name, value in finals(record)]
    seen = [sample for sample in job.load if created <= sample.at_ms <= ended]
    steps = {at_ms: step for step, at_ms in enumerate(sorted({s.at_ms for s in seen}))}
    metrics += [Metric(f"system/{s.name}", s.value, s.at_ms, steps[s.at_ms]) for s in seen]
    for start in range(0, len(metrics), _METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_BATCH])
    parameters = [Param(name, value) for name, value in params(record).items()]
    for start in range(0, len(parameters), _PARAMS_PER_BATCH):
        client.log_batch(run_id, params=parameters[start : start + _PARAMS_PER_BATCH])
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags(record).items()])
    for path in job.files:
        client.log_artifact(run_id, str(path))
    log_inputs(client, run, record)
    log_models(client, run, record, at_ms=now)
    status = "FINISHED" if record.status == "finished" else "FAILED"
    client.set_terminated(run_id, status, end_time=ended)


def _later_than_before(client: MlflowClient, run_id: str, record: RunRecord) -> int:
    """Return the time in ms, or just after what was logged: MLflow shows the latest, by clocks."""
    now = int(time.time() * 1000)
    for name in ["accuracy"] if record.points else []:
        times = [metric.timestamp for metric in client.get_metric_history(run_id, name)]
        now = max([now, *(at + 1 for at in times)])
    return now
