"""What MLflow is told of a record and of a sweep, and one LoggedModel for each operating point.

Its models table is so the Pareto table. A model's file is ONNX: MLflow's own loader reads it,
without skipbench and without unpickling anything. Which runs are logged is tracking.py's.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import redirect_stderr
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.records.record import PointRecord, RunRecord, leaves
from bench.records.store import INFERENCE_FILE, RECORD_FILE
from bench.records.sweep import SweepRecord

if TYPE_CHECKING:
    from mlflow.entities import Dataset, LoggedModel, Metric, Run
    from mlflow.tracking import MlflowClient

POINT_TAG = "skipbench.point"
_MODEL_TAG = "skipbench.model"
_METRICS_PER_BATCH, _PARAMS_PER_BATCH = 900, 90


def log_record(client: MlflowClient, run: Run, record: RunRecord, folder: Path) -> None:
    """Log all of a record: curves, parameters, tags, the files in its `folder`, data, models.

    Again, what has changed since is brought up to date.
    """
    from mlflow.entities import DatasetInput, InputTag

    run_id, created = str(run.info.run_id), epoch_ms(record.created)
    ended = created + int(record.wall_s * 1000)
    metrics = _curves(record, at_ms=created)
    for start in range(0, len(metrics), _METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_BATCH])
    log_params(client, run_id, record.spec.model_dump(mode="json"))
    _set_tags(client, run_id, _tags_of_run(record))
    for name in (RECORD_FILE, INFERENCE_FILE):
        if (folder / name).is_file():
            client.log_artifact(run_id, str(folder / name))
    inputs = [
        DatasetInput(_dataset(record, part), [InputTag("mlflow.data.context", context)])
        for part, context in (("train", "training"), ("test", "evaluation"))
    ]
    client.log_inputs(run_id, datasets=inputs)
    _log_models(client, run, record)
    status = "FINISHED" if record.status == "finished" else "FAILED"
    client.set_terminated(run_id, status, end_time=ended)


def log_sweep(client: MlflowClient, run_id: str, sweep: SweepRecord) -> None:
    """Log how many trials ended how, and what was chosen by what."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    counts = Counter(f"trials_{trial.status}" for trial in sweep.trials)
    metrics = [Metric(name, count, now, 0) for name, count in counts.items()]
    client.log_batch(run_id, metrics=metrics)
    told = {"skipbench.criterion": sweep.criterion, "skipbench.chosen": str(sweep.chosen)}
    _set_tags(client, run_id, told)
    client.set_terminated(run_id, "FINISHED" if sweep.ended else "KILLED")


def log_params(client: MlflowClient, run_id: str, settings: Mapping[str, Any]) -> None:
    """Log nested settings; MLflow takes those of a run once, and again only the same."""
    from mlflow.entities import Param

    listed = [Param(name, value) for name, value in params(settings).items()]
    for start in range(0, len(listed), _PARAMS_PER_BATCH):
        client.log_batch(run_id, params=listed[start : start + _PARAMS_PER_BATCH])


def _set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def _curves(record: RunRecord, *, at_ms: int) -> list[Metric]:
    """Return the values of every epoch; the step counts epochs over all phases."""
    from mlflow.entities import Metric

    return [
        Metric(mlflow_key(f"train/{name}"), value, at_ms, step)
        for step, row in enumerate(record.history)
        for name, value in (row.values | {"lr": row.lr, "images_per_s": row.images_per_s}).items()
    ]


def params(settings: Mapping[str, Any], *, longest: int = 500) -> dict[str, str]:
    """Return nested settings as flat MLflow parameters: budget.optimizer.lr and the like."""
    return {mlflow_key(name): str(value)[:longest] for name, value in leaves(settings).items()}


def _tags_of_run(record: RunRecord) -> dict[str, str]:
    """Return what MLflow's table of runs can be filtered by."""
    values = {
        "skipbench.key": record.spec.key,
        "skipbench.status": record.status,
        "skipbench.reason": record.reason[:500],
        "skipbench.variant": record.variant,
        "skipbench.synthetic": str(record.synthetic).lower(),
        "mlflow.source.git.commit": str(record.environment.values.get("git_commit") or ""),
    }
    return {name: value for name, value in values.items() if value}


def _log_models(client: MlflowClient, run: Run, record: RunRecord) -> None:
    """Log the operating points of a run, each once; what is known of one is brought up to date."""
    from mlflow.entities import Metric

    tested, known = _dataset(record, "test"), models_of(client, run)
    now, last = int(time.time() * 1000), max(0, len(record.history) - 1)
    for point in record.points:
        model = known.get(point.name) or _created(client, run, record, point)
        client.set_logged_model_tags(model.model_id, _tags_of_point(record, point))
        metrics = [
            Metric(
                *(mlflow_key(name), value, now, last),
                model_id=model.model_id,
                dataset_name=tested.name,
                dataset_digest=tested.digest,
                run_id=run.info.run_id,
            )
            for name, value in measured(point).items()
        ]
        client.log_batch(run.info.run_id, metrics=metrics)


def _created(client: MlflowClient, run: Run, record: RunRecord, point: PointRecord) -> LoggedModel:
    spec = record.spec
    title = " ".join(filter(None, (spec.method, record.variant, point.name)))
    told = {
        "method": spec.method,
        "point": point.name,
        "backbone": spec.backbone.name,
        "recipe": spec.budget.recipe,
        "epochs": spec.budget.epochs,
        "seed": spec.seed,
        **spec.config,
    }
    model = client.create_logged_model(
        run.info.experiment_id,
        name=re.sub(r"[/:.%\"']", "_", title),
        source_run_id=run.info.run_id,
        params={name: text for name, text in params(told, longest=250).items() if text},
        tags={POINT_TAG: point.name},
        model_type=record.role or "",
    )
    return client.finalize_logged_model(model.model_id, "READY")


def _tags_of_point(record: RunRecord, point: PointRecord) -> dict[str, str]:
    """Return what may be filtered by and may change: runtimes, and how each cell compares."""
    verdicts = {
        f"skipbench.verdict.{cell.runtime}_b{cell.batch_size}": cell.verdict
        for cell in point.latency
        if cell.verdict is not None
    }
    runtimes = ",".join(dict.fromkeys(cell.runtime for cell in point.latency))
    found = {"skipbench.runtime": runtimes} if runtimes else {}
    return {**found, "skipbench.run": record.run, **verdicts}


def models_of(client: MlflowClient, run: Run) -> dict[str, LoggedModel]:
    """Return the models of a run by their operating points."""
    of_run = f"source_run_id = '{run.info.run_id}'"
    found = client.search_logged_models([run.info.experiment_id], filter_string=of_run)
    return {model.tags[POINT_TAG]: model for model in found if POINT_TAG in model.tags}


def measured(point: PointRecord) -> dict[str, float]:
    """Return all numbers of an operating point, on test images and in each runtime."""
    plain = ("accuracy", "nflops", "nflops_backbone", "macs", "params")
    values: dict[str, float | None] = {name: getattr(point, name) for name in plain}
    for name in ("shuffled_accuracy", "difficulty_correlation"):
        values[name] = getattr(point.dynamics, name, None)
    for cell in point.latency:  # as they were measured, whatever the clock said
        suffix = f"{cell.runtime}_b{cell.batch_size}"
        newest = {f"latency_ms_{suffix}": cell.latency_ms, f"speedup_{suffix}": cell.speedup}
        values |= {name: value for name, value in newest.items() if value is not None}
    return {name: value for name, value in values.items() if value is not None}


def mlflow_key(name: str) -> str:
    """Return `name` with only the characters that MLflow takes in keys."""
    return re.sub(r"[^A-Za-z0-9_\-. /]", "_", name).strip("/. ")[:240] or "unnamed"


def epoch_ms(timestamp: str) -> int:
    """Return a record's time as MLflow wants it."""
    return int(datetime.fromisoformat(timestamp).timestamp() * 1000)


def _dataset(record: RunRecord, part: str) -> Dataset:
    from mlflow.entities import Dataset

    spec, images = record.spec.dataset, record.test_images
    if part == "train":
        images = 0 if record.training is None else record.training.train_images
    return Dataset(
        name=f"{spec.name} {part}",
        digest=spec.fingerprint[:36],
        source_type="local",
        source=json.dumps({"uri": spec.name}),
        profile=json.dumps({"num_rows": images, "part": part}),
    )


class Registered(NamedTuple):
    """A version in the registry; `new` is False where it was there already."""

    name: str
    version: str
    new: bool


def register(
    client: MlflowClient, model: LoggedModel, record: RunRecord, onnx_file: Path
) -> Registered:
    """Give a model its file, and the registry a version of it, if it has none."""
    import mlflow

    spec = record.spec
    name = re.sub(r"[/:]", "_", f"{spec.method}-{spec.dataset.name}-{spec.backbone.name}")
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get(_MODEL_TAG) == model.model_id:
            return Registered(name, str(version.version), new=False)
    with tempfile.TemporaryDirectory(prefix="bench-model-") as folder:
        made = Path(folder) / "model"
        _write(made, model, record, onnx_file)
        client.log_model_artifacts(model.model_id, str(made))
    told = {**model.tags, _MODEL_TAG: model.model_id}
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        version = mlflow.register_model(f"models:/{model.model_id}", name, tags=told)
    return Registered(name, str(version.version), new=True)


def _write(folder: Path, model: LoggedModel, record: RunRecord, onnx_file: Path) -> None:
    import mlflow.onnx
    import numpy as np
    import onnx
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    loaded = onnx.load(onnx_file)
    inputs, outputs = (
        Schema([TensorSpec(np.dtype(np.float32), _shape(one), one.name) for one in values])
        for values in (loaded.graph.input, loaded.graph.output)
    )
    mlflow.onnx.save_model(
        loaded,
        str(folder),
        mlflow_model=Model(model_id=model.model_id, run_id=model.source_run_id),
        signature=ModelSignature(inputs, outputs),
        pip_requirements=["onnx", "onnxruntime"],
        onnx_execution_providers=["CPUExecutionProvider"],
        metadata={"skipbench.run": record.run, POINT_TAG: model.tags[POINT_TAG]},
        save_as_external_data=False,
    )


def _shape(value: object) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim  # type: ignore[attr-defined]
    return tuple(dim.dim_value or -1 for dim in dims)
