"""MLflow as a sink: what arrives, that nothing arrives twice, and that its absence hurts nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.entities import LoggedModel, Run
from mlflow.tracking import MlflowClient
from synthetic_records import make_cell, make_point, make_record

from bench.records.mlflow_connection import EXPERIMENT, default_uri
from bench.records.mlflow_content import measured, models_of, params
from bench.records.record import Dynamics, RunRecord
from bench.records.store import INFERENCE_FILE, RunStore
from bench.records.sweep import SweepRecord, TrialRow, save_sweep
from bench.records.tracking import TrackingResult, log_records, register_point, sync


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


def log_one(record: RunRecord, results: Path, uri: str = "") -> TrackingResult:
    with pytest.MonkeyPatch.context() as patch:
        if uri:
            patch.setenv("MLFLOW_TRACKING_URI", uri)
        return log_records([record], RunStore(results))[record.run]


def logged(results: Path, name: str) -> list[Run]:
    client = MlflowClient(default_uri(results))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.`skipbench.run` = '{name}'"))


def test_a_record_arrives_whole_and_only_once(shared_results: Path) -> None:
    store = RunStore(shared_results)
    points = (make_point("t=0.5", accuracy=0.91), make_point("t=0.7", accuracy=0.92))
    record = make_record("skipnet", points=points, epochs=4)
    store.save(record)
    folder = store.folder_of(record)
    (folder / INFERENCE_FILE).write_bytes(b"weights")

    first, again = log_one(record, shared_results), log_one(record, shared_results)
    assert (first.logged, first.detail) == (True, "logged")
    assert (again.logged, again.detail) == (True, "already logged")

    (run,) = logged(shared_results, record.run)
    assert run.info.run_name == record.run
    assert run.info.status == "FINISHED"
    assert run.data.params["budget.optimizer.lr"] == "0.1"
    assert run.data.params["seed"] == "0"
    assert {(i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs} == {
        (f"cifar10 {part}", record.spec.dataset.fingerprint) for part in ("train", "test")
    }
    assert run.data.tags["skipbench.key"] == record.spec.key
    assert run.data.tags["mlflow.source.git.commit"] == "0" * 40
    client = MlflowClient(default_uri(shared_results))
    curve = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in curve] == [
        (step, row.values["loss"]) for step, row in enumerate(record.history)
    ]
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert names == {"record.json", INFERENCE_FILE}

    cell = make_cell(latency_ms=3.5, speedup=1.4).model_copy(update={"runtime": "native"})
    cells = (cell,)
    points = (make_point("t=0.5", accuracy=0.91, latency=cells), points[1])
    store.amend(record.run, lambda now: now.model_copy(update={"points": points}))
    assert sync(store)[record.run].detail == "updated"
    (run,) = logged(shared_results, record.run)
    models = models_of(client, run)
    assert {name: model.name for name, model in models.items()} == {
        "t=0.5": "skipnet t=0_5",
        "t=0.7": "skipnet t=0_7",
    }
    assert [_numbers(models[name])["accuracy"] for name in ("t=0.5", "t=0.7")] == [0.91, 0.92]
    timed = models["t=0.5"]
    assert _numbers(timed)["speedup_native_b1"] == 1.4
    assert _numbers(timed)["latency_ms_native_b1"] == 3.5
    assert timed.tags["skipbench.runtime"] == "native"
    assert timed.tags["skipbench.verdict.native_b1"] == "faster"
    assert timed.params["backbone"] == "resnet32"
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 4
    assert sync(store)[record.run].detail == "already logged"
    assert os.listdir() == []


def _numbers(model: LoggedModel) -> dict[str, float]:
    """Return what is known of a model on test images."""
    assert model.metrics is not None
    latest = sorted(model.metrics, key=lambda metric: metric.timestamp)
    assert {metric.dataset_name for metric in latest} == {"cifar10 test"}
    return {metric.key: metric.value for metric in latest}


def test_a_registered_model_is_loaded_by_mlflow_without_skipbench(
    shared_results: Path, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    images, logits = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3])
        for name in ("images", "logits")
    )
    node = onnx.helper.make_node("Neg", ["images"], ["logits"])
    graph = onnx.helper.make_graph([node], "g", [images], [logits])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "x.onnx")
    store = RunStore(shared_results)
    record = make_record("sgad", seed=6)
    store.save(record)
    first, again = (register_point(record, "", tmp_path / "x.onnx", store=store) for _ in range(2))
    assert (first.name, first.version, first.new) == ("sgad-cifar10-resnet32", "1", True)
    assert again == first._replace(new=False)
    code = (
        "import sys, numpy, mlflow; mlflow.set_tracking_uri(sys.argv[1]);"
        "out = mlflow.pyfunc.load_model(sys.argv[2]).predict(numpy.ones((1, 3), 'float32'));"
        "assert 'bench' not in sys.modules; print(out['logits'].tolist())"
    )
    told = [default_uri(shared_results), f"models:/{first.name}/{first.version}"]
    loaded = subprocess.run([sys.executable, "-c", code, *told], capture_output=True, text=True)
    assert loaded.stdout.strip() == "[[-1.0, -1.0, -1.0]]", loaded.stderr
    assert not list(shared_results.rglob("*.pkl"))


def test_sync_logs_failed_runs_too_and_leaves_out_damaged_ones(shared_results: Path) -> None:
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
    shared_results: Path,
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
        corner=(1.1, 0.1),
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
    for record in records:
        (child,) = logged(shared_results, record.run)
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_mlflow_prints_and_phones_nothing_even_when_it_creates_its_database(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = log_one(make_record(seed=3), tmp_path)
    assert result.logged
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "sqlite:////dev/null/no/mlflow.db", "file:///nowhere", "odd://x"]
)
def test_an_unreachable_mlflow_is_told_and_not_raised(tmp_path: Path, uri: str) -> None:
    result = log_one(make_record(), tmp_path, uri)
    assert not result.logged
    assert uri in result.detail


def test_a_missing_mlflow_is_told_and_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
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
def test_a_password_in_the_address_is_never_told(tmp_path: Path, uri: str) -> None:
    result = log_one(make_record(), tmp_path, uri)
    assert not result.logged
    assert "hunter2" not in result.detail and "secret" not in result.detail
    assert "not installed" not in result.detail or "MLflow is" not in result.detail


def test_a_missing_driver_of_a_database_is_called_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    result = log_one(make_record(), tmp_path, "postgresql+psycopg2://me:hunter2@127.0.0.1:9/db")
    assert "'psycopg2'" in result.detail and "is not installed" in result.detail
    assert "MLflow is not installed" not in result.detail


def test_a_deleted_experiment_is_restored(tmp_path: Path) -> None:
    records = [make_record(seed=seed) for seed in (1, 2)]
    assert log_one(records[0], tmp_path).logged
    client = MlflowClient(default_uri(tmp_path))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    assert log_one(records[1], tmp_path).logged
    assert len(logged(tmp_path, records[0].run)) == len(logged(tmp_path, records[1].run)) == 1


def test_a_damaged_database_is_told_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database here" * 100)
    result = log_one(make_record(), tmp_path)
    assert not result.logged
    assert "can be deleted" in result.detail


def test_the_environment_names_another_server_or_a_place_that_may_begin_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert default_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("HOME", "/home/me")
    for given, uri in (
        ("~/mlruns", "/home/me/mlruns"),
        ("sqlite:///~/mlflow.db", "sqlite:////home/me/mlflow.db"),
        ("http://~/x", "http://~/x"),
        ("http://tracking.example:5000", "http://tracking.example:5000"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        assert default_uri(tmp_path) == uri


def test_every_setting_of_a_spec_becomes_one_parameter() -> None:
    record = make_record(config={"gamma": 0.3, "widths": [1, 2], "nested": {"a": None}})
    found = params(record.spec.model_dump(mode="json"))
    assert found["config.gamma"] == "0.3"
    assert found["config.widths"] == "[1, 2]"
    assert found["config.nested.a"] == "None"
    assert found["dataset.name"] == "cifar10"


def test_the_latency_measured_last_is_logged_even_if_the_clock_was_set_back() -> None:
    cells = (
        make_cell(latency_ms=9.0, measured_at="2026-11-02T00:00:00+00:00"),
        make_cell(latency_ms=2.0, measured_at="2026-11-01T00:00:00+00:00"),
    )
    assert measured(make_point(latency=cells))["latency_ms_eager_b1"] == 2.0


def test_what_shuffling_masks_gives_is_a_metric_where_it_was_measured() -> None:
    dynamics = Dynamics(shuffled_accuracy=0.75, shuffled_loss=0.1)
    found = measured(make_point().model_copy(update={"dynamics": dynamics}))
    assert found["shuffled_accuracy"] == 0.75
    assert "difficulty_correlation" not in found
    assert "shuffled_accuracy" not in measured(make_point())
