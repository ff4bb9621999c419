"""MLflow as a sink: finished records are copied into it, by the driver only.

The record on disk is the truth. A missing or unreachable MLflow gives a TrackingResult that says
so and never an exception; what was not logged can be logged later by `sync`, and what is logged
already is left alone. A sweep is a parent run and its trials are its children. Owns which runs are
logged, and what is said where MLflow refuses; what it is told of a run is mlflow_content.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.errors import BenchError, RecordError
from bench.records import mlflow_content as content
from bench.records.document import content_sha256
from bench.records.mlflow_connection import (
    EXPERIMENT,
    default_uri,
    experiment_id,
    session,
    without_password,
)
from bench.records.mlflow_content import Registered
from bench.records.record import RunRecord
from bench.records.store import RunStore
from bench.records.sweep import SweepRecord, load_sweeps
from bench.storage import locked, make_folder

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

RUN_TAG, SHA_TAG = "skipbench.run", "skipbench.sha256"
SWEEP_TAG, PARENT_TAG = "skipbench.sweep", "mlflow.parentRunId"
_LOCK_FILE, _PATIENCE_S = ".mlflow.lock", 120.0


class TrackingResult(NamedTuple):
    """Whether MLflow now holds the record, and in words what was done or why not."""

    logged: bool
    detail: str


def sync(store: RunStore) -> dict[str, TrackingResult]:
    """Log every readable record of `store` that MLflow lacks or holds in an older state.

    Returns what happened to each run, by name; never raises for MLflow's sake.
    """
    return log_records(store.load_all().records, store)


def log_records(records: Sequence[RunRecord], store: RunStore) -> dict[str, TrackingResult]:
    """Log `records` of `store` over one connection; the rest as `sync`.

    Trials of a sweep in the results folder become children of its run.
    """
    uri = default_uri(store.results_dir)
    try:
        # Of two at once both would find a run missing, or the database not made yet.
        with _alone(store.results_dir), session(uri) as client:
            return _Sink(client, uri, store).log(records)
    except Exception as error:
        # One answer for all: an absent server is not asked again for every record.
        refused = _refusal(uri, error)
        return {record.run: refused for record in records}


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
    try:
        with session(uri) as client:
            run = _Sink(client, uri, store).known[record.run]
            return content.register(
                client, content.models_of(client, run)[point], record, onnx_file
            )
    except Exception as error:
        refused = _refusal(uri, error).detail
        raise RecordError(refused, hint="The record on disk is complete.") from error


class _Sink:
    """One experiment of an MLflow, and the runs in it by their names here."""

    def __init__(self, client: MlflowClient, uri: str, store: RunStore) -> None:
        """Ask for what is logged already: one question for thousands of records."""
        import mlflow

        self._client, self._uri, self._store = client, uri, store
        self._experiment_id = experiment_id(client, uri, store.results_dir)
        self.known: dict[str, Run] = {}
        for run in mlflow.search_runs([self._experiment_id], output_format="list"):
            name = run.data.tags.get(RUN_TAG) or run.data.tags.get(SWEEP_TAG)
            if name is not None:
                self.known.setdefault(name, run)

    def log(self, records: Sequence[RunRecord]) -> dict[str, TrackingResult]:
        sweeps, _ = load_sweeps(self._store.results_dir)
        # Of several sweeps with the same trial the first is its parent.
        sweep_of = {trial.run: sweep for sweep in reversed(sweeps) for trial in sweep.trials}
        parents: dict[str, str] = {}
        results: dict[str, TrackingResult] = {}
        for number, record in enumerate(records):
            try:
                sweep = sweep_of.get(record.run)
                if sweep is not None and sweep.name not in parents:
                    parents[sweep.name] = self._log_sweep(sweep)
                parent = "" if sweep is None else parents[sweep.name]
                results[record.run] = self._log_one(record, parent)
            except Exception as error:
                # A sink may fail in any way of its own; none of them is worth a finished training.
                refused = _refusal(self._uri, error)
                results[record.run] = refused
                if not self._answers():
                    return results | {left.run: refused for left in records[number:]}
        return results

    def _log_one(self, record: RunRecord, parent: str) -> TrackingResult:
        sha, known = content_sha256(record), self.known.get(record.run)
        told = {} if known is None else known.data.tags
        orphan = bool(parent) and PARENT_TAG not in told
        if told.get(SHA_TAG) == sha and not orphan:
            return TrackingResult(True, "already logged")
        run = self._run_of(record.run, RUN_TAG, record.created)
        if orphan:
            self._client.set_tag(run.info.run_id, PARENT_TAG, parent)
        content.log_record(self._client, run, record, self._store.folder_of(record))
        # Last, so that a copy broken off half way is taken up again.
        self._client.set_tag(run.info.run_id, SHA_TAG, sha)
        return TrackingResult(True, "updated" if known else "logged")

    def _log_sweep(self, sweep: SweepRecord) -> str:
        """Log a sweep as the parent of its trials; return the id of its run."""
        new = sweep.name not in self.known
        run_id = str(self._run_of(sweep.name, SWEEP_TAG, sweep.created).info.run_id)
        if new:  # again, its options may differ in where and how fast it ran
            content.log_params(self._client, run_id, sweep.options)
        content.log_sweep(self._client, run_id, sweep)
        return run_id

    def _run_of(self, name: str, tag: str, created: str) -> Run:
        """Return the run called `name`, made if there is none."""
        if name not in self.known:
            start = content.epoch_ms(created)
            self.known[name] = self._client.create_run(
                self._experiment_id, start_time=start, run_name=name, tags={tag: name}
            )
        return self.known[name]

    def _answers(self) -> bool:
        try:
            return self._client.get_experiment_by_name(EXPERIMENT) is not None
        except Exception:
            return False


def _alone(results_dir: Path) -> AbstractContextManager[None]:
    folder = make_folder(results_dir)
    return locked(folder / _LOCK_FILE, note=lambda _: None, patience_s=_PATIENCE_S)


def _refusal(uri: str, error: Exception) -> TrackingResult:
    if isinstance(error, ImportError):
        missing = (error.name or "mlflow").partition(".")[0]
        return TrackingResult(
            False, f"the package '{missing}' is not installed; the record on disk is complete"
        )
    if isinstance(error, BenchError):
        return TrackingResult(False, error.message)
    said = without_password(str(error), uri).strip()
    reason = (said.splitlines() or [type(error).__name__])[0][:200]
    if uri.startswith("sqlite"):
        reason += " (a damaged database can be deleted: a sync fills a new one from the records)"
    place = without_password(uri, uri)
    return TrackingResult(False, f"MLflow at {place} did not take the record: {reason}")
