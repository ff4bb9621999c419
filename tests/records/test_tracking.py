"""MLflow as a sink: what arrives, that nothing arrives twice, and that its absence hurts nobody."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from bench.records.mlflow_fields import finals, params
from bench.records.record import Dynamics, LatencyCell, PointRecord, RunRecord
from bench.records.store import INFERENCE_FILE, MASKS_FIGURE, RunStore
from bench.records.sweep import SweepRecord, TrialRow, save_sweep
from bench.records.tracking import (
    EXPERIMENT,
    TrackingResult,
    default_uri,
    log_records,
    sync,
)

MakeRecord = Callable[..., RunRecord]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, so that a stray mlruns would be seen."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture(scope="module")
def shared_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One results folder for the module: creating MLflow's database takes seconds."""
    return tmp_path_factory.mktemp("results")


def log_one(record: RunRecord, results: Path, uri: str | None = None) -> TrackingResult:
    return log_records([record], RunStore(results), tracking_uri=uri)[record.run]


def logged(results: Path, name: str) -> list[Run]:
    client = MlflowClient(default_uri(results))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.`skipbench.run` = '{name}'"))


def test_a_record_arrives_whole_and_only_once(
    shared_results: Path,
    make_record: MakeRecord,
    make_point: Callable[..., PointRecord],
    make_cell: Callable[..., LatencyCell],
) -> None:
    store = RunStore(shared_results)
    points = (make_point("t=0.5", accuracy=0.91), make_point("t=0.7", accuracy=0.92))
    record = make_record("skipnet", points=points, epochs=4)
    store.save(record)
    folder = store.folder_of(record)
    (folder / INFERENCE_FILE).write_bytes(b"weights")
    (folder / MASKS_FIGURE).write_bytes(b"picture")

    first, again = log_one(record, shared_results), log_one(record, shared_results)
    assert (first.logged, first.detail) == (True, "logged")
    assert (again.logged, again.detail) == (True, "already logged")

    (run,) = logged(shared_results, record.run)
    assert run.info.run_name == record.run
    assert run.info.status == "FINISHED"
    assert run.data.params["budget.optimizer.lr"] == "0.1"
    assert run.data.params["seed"] == "0"
    assert run.data.metrics["t_0.5/accuracy"] == 0.91
    assert run.data.metrics["t_0.7/accuracy"] == 0.92
    assert run.data.tags["skipbench.key"] == record.spec.key
    assert run.data.tags["mlflow.source.git.commit"] == "0" * 40
    client = MlflowClient(default_uri(shared_results))
    curve = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in curve] == [
        (step, row.values["loss"]) for step, row in enumerate(record.history)
    ]
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert names == {"record.json", INFERENCE_FILE, MASKS_FIGURE}

    cells = (make_cell(latency_ms=3.5, speedup=1.4),)
    points = (make_point("t=0.5", latency=cells),)
    store.amend(record.run, lambda now: now.model_copy(update={"points": points}))
    assert sync(store)[record.run].detail == "updated"
    (run,) = logged(shared_results, record.run)
    assert run.data.metrics["t_0.5/latency_ms_b1"] == 3.5
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 4
    assert sync(store)[record.run].detail == "already logged"
    assert os.listdir() == []


def test_sync_logs_failed_runs_too_and_leaves_out_damaged_ones(
    shared_results: Path, make_record: MakeRecord
) -> None:
    store = RunStore(shared_results)
    failed = make_record("act", status="failed", reason="the loss is not a number")
    store.save(failed)
    damaged = make_record("sact")
    store.save(damaged).write_bytes(b"{")
    results = sync(store)
    assert results[failed.run].logged
    assert damaged.run not in results
    (run,) = logged(shared_results, failed.run)
    assert run.info.status == "FAILED"
    assert run.data.tags["skipbench.reason"] == "the loss is not a number"


def test_a_sweep_is_the_parent_of_its_trials_whoever_logged_them_first(
    shared_results: Path, make_record: MakeRecord
) -> None:
    store = RunStore(shared_results)
    records = [make_record("sgad", seed=seed) for seed in (11, 12)]
    for record in records:
        store.save(record)
    log_one(records[0], shared_results)
    trials = tuple(
        TrialRow(
            method="sgad",
            settings={"sgad.gamma": 0.3},
            seed=11 + number,
            run=record.run,
            status="finished",
            points=((0.5, 0.9),),
            score=0.9 + number / 100,
        )
        for number, record in enumerate(records)
    )
    sweep = SweepRecord(
        name="sgad-digits-resnet8-12345678",
        options={"methods": ["sgad"], "params": {"sgad.gamma": "0.3"}},
        criterion="highest accuracy on held-out training images",
        held_out=100,
        created="2026-11-01T10:00:00+00:00",
        ended=True,
        trials=trials,
        chosen={"sgad": (records[1].run,)},
    )
    save_sweep(sweep, shared_results)
    results = sync(store)
    assert [results[record.run].detail for record in records] == ["updated", "logged"]
    assert {sync(store)[record.run].detail for record in records} == {"already logged"}
    client = MlflowClient(default_uri(shared_results))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (parent,) = client.search_runs(
        [experiment.experiment_id], f"tags.`skipbench.sweep` = '{sweep.name}'"
    )
    assert parent.data.params["params.sgad.gamma"] == "0.3"
    assert parent.data.metrics["trials_finished"] == 2
    assert parent.data.metrics["best_score/sgad"] == 0.91
    for record in records:
        (child,) = logged(shared_results, record.run)
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_mlflow_prints_and_phones_nothing_even_when_it_creates_its_database(
    tmp_path: Path,
    make_record: MakeRecord,
    capfd: pytest.CaptureFixture[str],
) -> None:
    result = log_one(make_record(seed=3), tmp_path)
    assert result.logged
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "sqlite:////dev/null/no/mlflow.db", "file:///nowhere", "odd://x"]
)
def test_an_unreachable_mlflow_is_told_and_not_raised(
    tmp_path: Path, make_record: MakeRecord, uri: str
) -> None:
    result = log_one(make_record(), tmp_path, uri)
    assert not result.logged
    assert uri in result.detail


def test_a_missing_mlflow_is_told_and_not_raised(
    tmp_path: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    store = RunStore(tmp_path)
    record = make_record()
    store.save(record)
    result = sync(store)[record.run]
    assert not result.logged
    assert "not installed" in result.detail


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:hunter2secret@127.0.0.1:9",
        "postgresql://me:hunter2secret@127.0.0.1:9/db",
        "odd://me:hunter2secret@x",
        "mysql+pymysql://me:hunter2%40secret@127.0.0.1:9/db",
        "http://me:hunter2@secret@127.0.0.1:9",
        "http://[me:hunter2secret@x",
    ],
)
def test_a_password_in_the_address_is_never_told(
    tmp_path: Path, make_record: MakeRecord, uri: str
) -> None:
    result = log_one(make_record(), tmp_path, uri)
    assert not result.logged
    assert "hunter2" not in result.detail and "secret" not in result.detail
    assert "not installed" not in result.detail or "MLflow is" not in result.detail


def test_a_missing_driver_of_a_database_is_called_by_its_name(
    tmp_path: Path, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    result = log_one(make_record(), tmp_path, "postgresql+psycopg2://me:hunter2@127.0.0.1:9/db")
    assert "'psycopg2'" in result.detail and "is not installed" in result.detail
    assert "MLflow is not installed" not in result.detail


def test_a_deleted_experiment_is_said_and_restored_by_a_sync(
    tmp_path: Path, make_record: MakeRecord
) -> None:
    store = RunStore(tmp_path)
    records = [make_record(seed=seed) for seed in (1, 2)]
    for record in records:
        store.save(record)
    assert log_one(records[0], tmp_path).logged
    client = MlflowClient(default_uri(tmp_path))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    refused = log_one(records[1], tmp_path)
    assert not refused.logged
    assert "was deleted in MLflow" in refused.detail and "bench mlflow sync" in refused.detail
    results = sync(store)
    assert [results[record.run].logged for record in records] == [True, True]
    assert len(logged(tmp_path, records[0].run)) == len(logged(tmp_path, records[1].run)) == 1


def test_the_address_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for given, uri in (
        ("~/mlruns", "/home/me/mlruns"),
        ("sqlite:///~/mlflow.db", "sqlite:////home/me/mlflow.db"),
        ("http://~/x", "http://~/x"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        assert default_uri(tmp_path) == uri


def test_the_environment_names_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert default_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    assert default_uri(tmp_path) == "http://tracking.example:5000"


def test_every_setting_of_a_spec_becomes_one_parameter(make_record: MakeRecord) -> None:
    found = params(make_record(config={"gamma": 0.3, "widths": [1, 2], "nested": {"a": None}}))
    assert found["config.gamma"] == "0.3"
    assert found["config.widths"] == "[1, 2]"
    assert found["config.nested.a"] == "None"
    assert found["dataset.name"] == "cifar10"


def test_the_latency_measured_last_is_logged_even_if_the_clock_was_set_back(
    make_record: MakeRecord,
    make_point: Callable[..., PointRecord],
    make_cell: Callable[..., LatencyCell],
) -> None:
    cells = (
        make_cell(latency_ms=9.0, measured_at="2026-11-02T00:00:00+00:00"),
        make_cell(latency_ms=2.0, measured_at="2026-11-01T00:00:00+00:00"),
    )
    found = dict(finals(make_record(points=(make_point(latency=cells),))))
    assert found["latency_ms_b1"] == 2.0
    assert found["accuracy"] == 0.92


def test_what_shuffling_masks_gives_is_a_metric_where_it_was_measured(
    make_record: Callable[..., RunRecord], make_point: Callable[..., PointRecord]
) -> None:
    dynamics = Dynamics(shuffled_accuracy=0.75, shuffled_loss=0.1)
    point = make_point().model_copy(update={"dynamics": dynamics})
    found = dict(finals(make_record(points=(point,))))
    assert found["shuffled_accuracy"] == 0.75
    assert "difficulty_correlation" not in found
    assert "shuffled_accuracy" not in dict(finals(make_record(points=(make_point(),))))
