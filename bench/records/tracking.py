"""MLflow as a sink: finished records are copied into it, by the driver only.

The record on disk is the truth. A missing or unreachable MLflow gives a TrackingResult that says
so and never an exception; what was not logged can be logged later by `sync`, and what is logged
already is left alone. A sweep is a parent run and its trials are its children. Owns the
communication with MLflow; what it is told of a record is mlflow_content.py's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.errors import BenchError, RecordError, StorageError
from bench.records import mlflow_connection as connection
from bench.records import mlflow_content as content
from bench.records.document import content_sha256
from bench.records.mlflow_connection import Deleted, default_uri, uri_of
from bench.records.record import RunRecord
from bench.records.store import INFERENCE_FILE, MASKS_FIGURE, RECORD_FILE, RunStore
from bench.records.sweep import SweepRecord, load_sweeps
from bench.storage import locked, make_folder

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

RUN_TAG, SHA_TAG = "skipbench.run", "skipbench.sha256"
SWEEP_TAG, PARENT_TAG = "skipbench.sweep", "mlflow.parentRunId"
_LOCK_FILE, _PATIENCE_S = ".mlflow.lock", 120.0
_PAGE, _METRICS_PER_BATCH, _PARAMS_PER_BATCH = 1000, 900, 90

Load = Sequence[tuple[int, str, float]]
"""What was sampled of the machine: when, in ms, by which name, the number."""


class TrackingResult(NamedTuple):
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
    load: Load = (),
) -> dict[str, TrackingResult]:
    """Log `records` of `store` over one connection; the rest as `sync`.

    `deleted` says what to do where the experiment was deleted in MLflow; `load` is that of the
    machine while runs were done.
    Those that are trials of one of `sweeps` become children of its run; of several, the first's.
    """
    uri = tracking_uri or default_uri(store.results_dir)
    with connection.quiet():
        try:
            # Of two at once both would find a run missing, or the database not made yet.
            with _alone(store.results_dir):
                sink = _sink(uri, store, deleted=deleted)
                return _log_each(records, sweeps, sink, load)
        except Exception as error:
            # One answer for all: an absent server is not asked again for every record.
            refused = _refusal(uri, error, store.results_dir)
            return {record.run: refused for record in records}


def register_point(
    record: RunRecord, point: str, onnx_file: Path, *, store: RunStore
) -> content.Registered:
    """Log a record if it is not, and register the model of one of its operating points.

    Raises:
        RecordError: MLflow did not take it; the message says why.
    """
    logged = log_records([record], store)[record.run]
    if not logged.logged:
        raise RecordError(logged.detail, hint="The record on disk is complete.")
    uri = default_uri(store.results_dir)
    with connection.quiet():
        try:
            sink = _sink(uri, store, deleted="refuse")
            model = content.models_of(sink.client, sink.known[record.run])[point]
            with connection.as_default(uri):
                return content.register(sink.client, model, record, onnx_file)
        except Exception as error:
            refused = _refusal(uri, error, store.results_dir).detail
            raise RecordError(refused, hint="The record on disk is complete.") from error


@dataclass(frozen=True, slots=True)
class _Sink:
    """One experiment of an MLflow, and the runs in it by their names here."""

    client: MlflowClient
    experiment_id: str
    uri: str
    store: RunStore
    known: dict[str, Run]

    def run_of(self, name: str, tag: str, created: str) -> Run:
        """Return the run called `name`, made if there is none."""
        if name not in self.known:
            start = content.epoch_ms(created)
            self.known[name] = self.client.create_run(
                self.experiment_id, start_time=start, run_name=name, tags={tag: name}
            )
        return self.known[name]


def _sink(uri: str, store: RunStore, *, deleted: Deleted) -> _Sink:
    """Connect, and ask for what is logged already: one question for thousands of records."""
    client, experiment_id = connection.connect(uri, store.results_dir, deleted=deleted)
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
            return _Sink(client, experiment_id, uri, store, known)


def _log_each(
    records: Sequence[RunRecord], sweeps: Sequence[SweepRecord], sink: _Sink, load: Load
) -> dict[str, TrackingResult]:
    sweep_of = {trial.run: sweep for sweep in reversed(sweeps) for trial in sweep.trials}
    parents: dict[str, str] = {}
    results: dict[str, TrackingResult] = {}
    for number, record in enumerate(records):
        sweep = sweep_of.get(record.run)
        if sweep is not None and sweep.name not in parents:
            parents[sweep.name] = _log_sweep(sweep, sink)
        try:
            parent = None if sweep is None else parents[sweep.name]
            results[record.run] = _log(record, sink, parent, load)
        except Exception as error:
            # A sink may fail in any way of its own; none of them is worth a finished training.
            refused = _refusal(sink.uri, error, sink.store.results_dir)
            results[record.run] = refused
            if not _answers(sink.client):
                return results | {left.run: refused for left in records[number:]}
    return results


def _answers(client: MlflowClient) -> bool:
    try:
        return client.get_experiment_by_name(connection.EXPERIMENT) is not None
    except Exception:
        return False


def _alone(results_dir: Path) -> AbstractContextManager[None]:
    folder = make_folder(results_dir)
    return locked(folder / _LOCK_FILE, note=lambda _: None, patience_s=_PATIENCE_S)


def _database_mended(results_dir: Path) -> dict[str, TrackingResult]:
    """Set the database aside if it is damaged; say so."""
    if not connection.is_damaged(results_dir):
        return {}
    try:
        with _alone(results_dir):
            aside = connection.set_database_aside(results_dir)
    except StorageError as error:
        done = TrackingResult(False, f"damaged: {error.message}")
    else:
        name = "gone" if aside is None else aside.name
        done = TrackingResult(True, f"damaged, set aside as {name}; built anew")
    return {connection.DATABASE_FILE: done}


def _refusal(uri: str, error: Exception, results_dir: Path) -> TrackingResult:
    if isinstance(error, ImportError):
        missing = (error.name or "mlflow").partition(".")[0]
        needs = f"'{missing}', which MLflow needs for that address,"
        needs = "MLflow" if missing == "mlflow" else needs
        return TrackingResult(False, f"{needs} is not installed; the record on disk is complete")
    if isinstance(error, BenchError):
        return TrackingResult(False, error.message)
    said = connection.without_password(str(error), uri).strip()
    reason = (said.splitlines() or [type(error).__name__])[0]
    if uri == uri_of(results_dir) and connection.is_damaged(results_dir):
        reason = "the database is damaged; the records are complete, and a sync builds it anew"
    place = connection.without_password(uri, uri)
    return TrackingResult(False, f"MLflow at {place} did not take the record: {reason[:200]}")


def _log(record: RunRecord, sink: _Sink, parent: str | None, load: Load) -> TrackingResult:
    sha, known = content_sha256(record), sink.known.get(record.run)
    told = {} if known is None else known.data.tags
    orphan = parent is not None and PARENT_TAG not in told
    if told.get(SHA_TAG) == sha and not orphan:
        return TrackingResult(True, "already logged")
    run = sink.run_of(record.run, RUN_TAG, record.created)
    if orphan:
        sink.client.set_tag(run.info.run_id, PARENT_TAG, parent)
    _write(record, run, sink, load)
    # Last, so that a copy broken off half way is taken up again.
    sink.client.set_tag(run.info.run_id, SHA_TAG, sha)
    return TrackingResult(True, "updated" if known else "logged")


def _log_sweep(sweep: SweepRecord, sink: _Sink) -> str:
    """Log a sweep as the parent of its trials; return the id of its run."""
    from mlflow.entities import Metric, RunTag

    new, client = sweep.name not in sink.known, sink.client
    run_id = str(sink.run_of(sweep.name, SWEEP_TAG, sweep.created).info.run_id)
    if new:
        _log_params(client, run_id, sweep.options)
    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, 0) for name, value in content.sweep_metrics(sweep).items()]
    told = {"skipbench.criterion": sweep.criterion, "skipbench.chosen": str(sweep.chosen)}
    client.log_batch(run_id, metrics=metrics, tags=[RunTag(*item) for item in told.items()])
    client.set_terminated(run_id, "FINISHED" if sweep.ended else "KILLED")
    return run_id


def _log_params(client: MlflowClient, run_id: str, settings: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    parameters = [Param(name, value) for name, value in content.params(settings).items()]
    for start in range(0, len(parameters), _PARAMS_PER_BATCH):
        client.log_batch(run_id, params=parameters[start : start + _PARAMS_PER_BATCH])


def _write(record: RunRecord, run: Run, sink: _Sink, load: Load) -> None:
    from mlflow.entities import Metric, RunTag

    client, run_id, created = sink.client, str(run.info.run_id), content.epoch_ms(record.created)
    ended = created + int(record.wall_s * 1000)
    metrics = [Metric(name, value, created, step) for name, value, step in content.history(record)]
    now, last = _later_than_before(client, run_id, record), content.last_step(record)
    metrics += [Metric(name, value, now, last) for name, value in content.finals(record)]
    times = sorted({at_ms for at_ms, _, _ in load if created <= at_ms <= ended})
    steps = {at_ms: step for step, at_ms in enumerate(times)}
    metrics += [Metric(f"system/{n}", v, at, steps[at]) for at, n, v in load if at in steps]
    for start in range(0, len(metrics), _METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_BATCH])
    _log_params(client, run_id, record.spec.model_dump(mode="json"))
    client.log_batch(run_id, tags=[RunTag(*item) for item in content.tags(record).items()])
    for name in (RECORD_FILE, INFERENCE_FILE, MASKS_FIGURE):
        path = sink.store.folder_of(record) / name
        if path.is_file():
            client.log_artifact(run_id, str(path))
    content.log_inputs(client, run, record)
    content.log_models(client, run, record, at_ms=now)
    status = "FINISHED" if record.status == "finished" else "FAILED"
    client.set_terminated(run_id, status, end_time=ended)


def _later_than_before(client: MlflowClient, run_id: str, record: RunRecord) -> int:
    """Return the time in ms, or just after what was logged: MLflow shows the latest, by clocks."""
    before = client.get_metric_history(run_id, "accuracy") if record.points else []
    return max([int(time.time() * 1000), *(metric.timestamp + 1 for metric in before)])
