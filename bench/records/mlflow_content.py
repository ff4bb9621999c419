"""What MLflow is told of a record and of a sweep, and one LoggedModel for each operating point.

Its models table is so the Pareto table. A model's file is ONNX: MLflow's own loader reads it,
without skipbench and without unpickling anything. Talks of runs are tracking.py's.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.records.record import PointRecord, RunRecord, leaves
from bench.records.sweep import SweepRecord

if TYPE_CHECKING:
    from mlflow.entities import Dataset, LoggedModel, Run
    from mlflow.tracking import MlflowClient

POINT_TAG = "skipbench.point"


def params(settings: Mapping[str, Any], *, longest: int = 500) -> dict[str, str]:
    """Return nested settings as flat MLflow parameters: budget.optimizer.lr and the like."""
    return {mlflow_key(name): str(value)[:longest] for name, value in leaves(settings).items()}


def history(record: RunRecord) -> list[tuple[str, float, int]]:
    """Return (metric, value, step) of every epoch; the step counts epochs over all phases."""
    return [
        (mlflow_key(f"train/{name}"), value, step)
        for step, row in enumerate(record.history)
        for name, value in (row.values | {"lr": row.lr, "images_per_s": row.images_per_s}).items()
    ]


def finals(record: RunRecord) -> list[tuple[str, float]]:
    """Return (metric, value) of every operating point that has a name, prefixed by it.

    Without the name they are those of the point's model, and of its run where it has only one.
    """
    return [
        (mlflow_key(f"{point.name}/{name}"), value)
        for point in record.points
        if point.name
        for name, value in (measured(point)).items()
    ]


def tags(record: RunRecord) -> dict[str, str]:
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


def sweep_metrics(sweep: SweepRecord) -> dict[str, float]:
    """Return how many trials ended how, and the best score of each method."""
    counts = Counter(f"trials_{trial.status}" for trial in sweep.trials)
    best: dict[str, float] = {}
    for trial in sweep.trials:
        if trial.run in sweep.chosen.get(trial.method, ()) and trial.score is not None:
            name = mlflow_key(f"best_score/{trial.method}")
            best[name] = max(trial.score, best.get(name, trial.score))
    return {**dict(counts), **best}


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


def last_step(record: RunRecord) -> int:
    """Return the step of the last epoch."""
    return max(0, len(record.history) - 1)


class Registered(NamedTuple):
    """A version in the registry; `new` is False where it was there already."""

    name: str
    version: str
    new: bool


def log_inputs(client: MlflowClient, run: Run, record: RunRecord) -> None:
    """Tell MLflow what a run was trained on and tested on; again changes nothing."""
    from mlflow.entities import DatasetInput, InputTag

    inputs = [
        DatasetInput(_dataset(record, part), [InputTag("mlflow.data.context", context)])
        for part, context in (("train", "training"), ("test", "evaluation"))
    ]
    client.log_inputs(run.info.run_id, datasets=inputs)


def log_models(client: MlflowClient, run: Run, record: RunRecord, *, at_ms: int) -> None:
    """Log the operating points of a run, each once; what is known of one is brought up to date."""
    from mlflow.entities import Metric

    tested, known = _dataset(record, "test"), models_of(client, run)
    for point in record.points:
        model = known.get(point.name) or _created(client, run, record, point)
        client.set_logged_model_tags(model.model_id, _tags(record, point))
        metrics = [
            Metric(
                *(mlflow_key(name), value, at_ms, last_step(record)),
                model_id=model.model_id,
                dataset_name=tested.name,
                dataset_digest=tested.digest,
                run_id=run.info.run_id,
            )
            for name, value in measured(point).items()
        ]
        client.log_batch(run.info.run_id, metrics=metrics)


def models_of(client: MlflowClient, run: Run) -> dict[str, LoggedModel]:
    """Return the models of a run by their operating points."""
    of_run = f"source_run_id = '{run.info.run_id}'"
    found = client.search_logged_models([run.info.experiment_id], filter_string=of_run)
    return {model.tags[POINT_TAG]: model for model in found if POINT_TAG in model.tags}


def register(
    client: MlflowClient, model: LoggedModel, record: RunRecord, onnx_file: Path
) -> Registered:
    """Give a model its file, if it has none, and the registry a version of it, if it has none."""
    spec = record.spec
    name = re.sub(r"[/:]", "_", f"{spec.method}-{spec.dataset.name}-{spec.backbone.name}")
    if not any(one.name == name for one in client.search_registered_models(f"name = '{name}'")):
        client.create_registered_model(name)
    source = f"models:/{model.model_id}"
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.source == source or getattr(version, "model_id", None) == model.model_id:
            return Registered(name, str(version.version), new=False)
    with tempfile.TemporaryDirectory(prefix="bench-model-") as folder:
        made = Path(folder) / "model"
        _write(made, model, record, onnx_file)
        client.log_model_artifacts(model.model_id, str(made))
    version = client.create_model_version(
        name,
        source=source,
        run_id=model.source_run_id,
        tags={**model.tags, "skipbench.run": record.run},
        model_id=model.model_id,
    )
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


def _tags(record: RunRecord, point: PointRecord) -> dict[str, str]:
    """Return what may be filtered by and may change: runtimes, and how each cell compares."""
    verdicts = {
        f"skipbench.verdict.{cell.runtime}_b{cell.batch_size}": cell.verdict
        for cell in point.latency
        if cell.verdict is not None
    }
    runtimes = ",".join(dict.fromkeys(cell.runtime for cell in point.latency))
    found = {"skipbench.runtime": runtimes} if runtimes else {}
    return {**found, "skipbench.run": record.run, **verdicts}


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
