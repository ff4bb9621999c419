"""One run from spec to record: build, train, evaluate, keep. The same for every engine.

Owns the order of the steps and what lands in a run's folder; time is measured elsewhere, when all
networks of a comparison are ready.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from bench.config import RunSpec
from bench.data.augment import Batch, eval_batches, pad_images
from bench.data.images import Dataset, hold_out
from bench.engine.plan import METHODS, method_config
from bench.errors import BenchError, NotExecutable, WeightsError
from bench.measure.accuracy import evaluate
from bench.measure.cost import dense_macs, unit_macs
from bench.measure.environment import describe_environment
from bench.measure.equivalence import check_execution
from bench.measure.point import point_arrays, point_record
from bench.method import DynamicNet, Method, MethodConfig, Point
from bench.networks.gated import GatedResNet
from bench.networks.resnet import Backbone
from bench.networks.weights import Weights, check_fit, read_weights, trunk_bytes
from bench.records.record import PhaseCost, PointRecord, RunRecord, TrainingRecord
from bench.records.store import (
    INFERENCE_FILE,
    TRUNK_FILE,
    WEIGHTS_FILE,
    RunStore,
    save_arrays,
)
from bench.seeding import seed_globally
from bench.storage import write_atomically
from bench.training.checkpoint import Checkpoint
from bench.training.loop import Settings, TrainingImages, train
from bench.training.reporter import Reporter

CHECKPOINT_FILE = "checkpoint.bin"
_EVAL_BATCH = 500
_EQUIVALENCE_IMAGES = 256


@dataclass(frozen=True, slots=True)
class Workplace:
    """What a run needs besides its spec: the images, the shelf, the device, a listener.

    `weights` is the user's file when the spec starts from one.
    """

    dataset: Dataset
    store: RunStore
    device: torch.device
    reporter: Reporter
    weights: Weights | None = None


def perform(spec: RunSpec, place: Workplace) -> RunRecord:
    """Return the finished record of `spec`, from disk if it is there, else by doing the run.

    A run that fails leaves a record that says why, and raises.
    """
    found = place.store.find(spec)
    if found is not None:
        return found
    place.reporter.run_started(spec.run)
    started = time.perf_counter()
    try:
        record = _perform(spec, place, started)
    except Exception as error:
        reason = error.message if isinstance(error, BenchError) else repr(error)
        place.store.save(_record(spec, place, status="failed", reason=reason, started=started))
        raise
    place.store.save(record)
    (place.store.folder(spec) / CHECKPOINT_FILE).unlink(missing_ok=True)
    return record


def rebuild(record: RunRecord, place: Workplace) -> list[Point]:
    """Return the operating points of a finished run, with its weights, on the device.

    Raises:
        WeightsError: the run's weights are missing or broken.
    """
    method, config = method_of(record.spec)
    net = method.build(_backbone(record.spec, place.dataset, None), config)
    path = place.store.folder(record.spec) / WEIGHTS_FILE
    try:
        net.load_state_dict(load_file(path))
    except Exception as error:
        raise WeightsError(
            f"The weights of the run {record.run} cannot be read: {error}"
        ) from error
    return list(method.operating_points(_placed(net, place.device), config))


def method_of(spec: RunSpec) -> tuple[Method, MethodConfig]:
    """Return the method of a spec and its settings."""
    method = METHODS.get(spec.method)
    return method(), method_config(method, spec.config)


def dense_net(spec: RunSpec, place: Workplace) -> DynamicNet:
    """Return the dense network that `spec` is compared with, weights from its start if any.

    Its time does not depend on its weights.
    """
    weights = place.weights.state if place.weights is not None else None
    return _placed(GatedResNet(_backbone(spec, place.dataset, weights)), place.device)


def first_images(spec: RunSpec, place: Workplace, *, count: int) -> Tensor:
    """Return the first `count` test images on the device, normalised: (N, C, H, W)."""
    mean, std = spec.normalisation
    test = place.dataset.test
    few = test.take(torch.arange(min(count, len(test)))).to(place.device)
    return next(eval_batches(few, batch_size=count, mean=mean, std=std)).x_nchw


def _perform(spec: RunSpec, place: Workplace, started: float) -> RunRecord:
    method, config = method_of(spec)
    initial, parent = _initial_weights(spec, place)
    if initial is not None:
        check_fit(initial, _backbone(spec, place.dataset, None))
    seed_globally(spec.seed, "build")
    state = initial.state if initial is not None else None
    net = _placed(method.build(_backbone(spec, place.dataset, state), config), place.device)
    if spec.compiled:
        net.compile()
    history, costs = train(
        net,
        method.phases(config, spec.budget),
        images=_training_images(spec, place),
        settings=Settings(spec.seed, place.device, spec.precision),
        checkpoint=Checkpoint(place.store.folder(spec) / CHECKPOINT_FILE, identity=spec.key),
        reporter=place.reporter,
    )
    points = [
        _measure(number, point, spec, place)
        for number, point in enumerate(method.operating_points(net, config))
    ]
    _keep_weights(net, points[0], spec, place)
    backbone = _backbone(spec, place.dataset, None)
    record = _record(spec, place, status="finished", reason="", started=started)
    return record.model_copy(
        update={
            "variant": method.variant(config),
            "dense_macs": dense_macs(backbone),
            "unit_macs": unit_macs(net),
            "reconstructed": method.tags.reconstructed,
            "training": _training_record(spec, place, costs, parent),
            "history": tuple(history),
            "points": tuple(points),
        }
    )


def _record(
    spec: RunSpec, place: Workplace, *, status: str, reason: str, started: float
) -> RunRecord:
    info = place.dataset.info
    return RunRecord.model_validate(
        {
            "run": spec.run,
            "spec": spec,
            "status": status,
            "reason": reason,
            "dataset_title": info.title,
            "synthetic": info.synthetic,
            "test_images": len(place.dataset.test),
            "environment": describe_environment(place.device),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "wall_s": time.perf_counter() - started,
        }
    )


def _backbone(spec: RunSpec, dataset: Dataset, weights: Mapping[str, Tensor] | None) -> Backbone:
    info = dataset.info
    return Backbone(
        spec.backbone.name,
        info.num_classes,
        (info.channels, info.height, info.width),
        spec.backbone.shortcut,
        weights,
    )


def _placed(net: DynamicNet, device: torch.device) -> DynamicNet:
    return net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _initial_weights(spec: RunSpec, place: Workplace) -> tuple[Weights | None, RunRecord | None]:
    if spec.initial is None:
        return None, None
    if spec.initial.kind == "file":
        if place.weights is None or place.weights.sha256 != spec.initial.identity:
            raise WeightsError(f"This run starts from the file {spec.initial.name}.")
        return place.weights, None
    parent = place.store.get(spec.initial.name)
    return read_weights(place.store.folder(parent.spec) / TRUNK_FILE), parent


def _training_images(spec: RunSpec, place: Workplace) -> TrainingImages:
    info, train_set, held_out = place.dataset.info, place.dataset.train, None
    if spec.held_out > 0:
        train_set, held_out = hold_out(train_set, spec.held_out, seed=spec.seed)
        held_out = held_out.to(place.device)
    mean, std = spec.normalisation
    padded = pad_images(train_set.to(place.device), info.pad)
    return TrainingImages(padded, info.flip, mean, std, held_out)


def _measure(number: int, point: Point, spec: RunSpec, place: Workplace) -> PointRecord:
    mean, std = spec.normalisation
    test = place.dataset.test.to(place.device)
    name = f"evaluation {point.name}".strip()
    place.reporter.phase_started(name, epochs=1, done=0, images_per_epoch=len(test))
    batches = eval_batches(test, batch_size=_EVAL_BATCH, mean=mean, std=std)
    evaluation = evaluate(point.net, _told(batches, place.reporter), num_images=len(test))
    costs = unit_macs(point.net)
    file = f"point{number}.npz"
    measured = point_record(
        point.name,
        evaluation,
        net=point.net,
        unit_macs=costs,
        dense_macs=dense_macs(_backbone(spec, place.dataset, None)),
        arrays_file=file,
        equivalence=_proof(point.net, first_images(spec, place, count=_EQUIVALENCE_IMAGES)),
    )
    arrays = point_arrays(evaluation, net=point.net, unit_macs=costs)
    save_arrays(place.store.folder(spec), file, arrays)
    return measured


def _told(batches: Iterator[Batch], reporter: Reporter) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        reporter.advanced(len(batch))


def _proof(net: DynamicNet, x_nchw: Tensor) -> str:
    try:
        return check_execution(net, x_nchw)
    except NotExecutable as error:
        return f"no skipping path: {error.message}"


def _keep_weights(net: DynamicNet, point: PointRecord, spec: RunSpec, place: Workplace) -> None:
    folder = place.store.folder(spec)
    write_atomically(folder / WEIGHTS_FILE, _state_bytes(net))
    shipped = net.inference_net(dead_blocks=frozenset(point.dead_blocks))
    write_atomically(folder / INFERENCE_FILE, _state_bytes(shipped))
    if isinstance(net, GatedResNet):
        data = trunk_bytes(
            net.trunk.state_dict(),
            backbone=spec.backbone.name,
            normalisation=spec.normalisation,
        )
        write_atomically(folder / TRUNK_FILE, data)


def _state_bytes(net: DynamicNet) -> bytes:
    return save({key: value.cpu().contiguous() for key, value in net.state_dict().items()})


def _training_record(
    spec: RunSpec, place: Workplace, costs: Sequence[PhaseCost], parent: RunRecord | None
) -> TrainingRecord:
    dense = dense_macs(_backbone(spec, place.dataset, None))
    before = parent.training if parent is not None else None
    from_scratch = spec.initial is None
    return TrainingRecord(
        train_images=len(place.dataset.train) - spec.held_out,
        phases=tuple(costs),
        epochs=sum(cost.epochs for cost in costs),
        dense_epochs=sum(cost.epochs * cost.macs_per_image for cost in costs) / dense,
        pretraining_epochs=0 if from_scratch else before.epochs if before else None,
        pretraining_dense_epochs=0.0 if from_scratch else before.dense_epochs if before else None,
    )
