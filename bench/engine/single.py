"""One run from spec to record: build, train, evaluate, keep. The same for every engine.

Owns the order of the steps and what lands in a run's folder; time is measured elsewhere, when all
networks of a comparison are ready.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import torch
from safetensors.torch import save
from torch import Tensor

from bench.config import RunSpec
from bench.data.augment import Batch, eval_batches, pad_images
from bench.data.images import ImageSet, hold_out
from bench.engine.building import Workplace, backbone_of, build, method_of, parent_of
from bench.errors import BenchError, NotExecutable, StorageError, Unsupported
from bench.measure.accuracy import Evaluation, evaluate, evaluate_permuted
from bench.measure.cost import dense_macs, unit_macs
from bench.measure.environment import describe_environment
from bench.measure.equivalence import check_execution
from bench.measure.modes import evaluating
from bench.measure.point import mean_macs, point_arrays, point_record
from bench.method import DerivedMethod, DynamicNet, Point
from bench.networks.resnet import ResNet
from bench.networks.weights import trunk_bytes
from bench.records.record import Dynamics, PhaseCost, PointRecord, RunRecord, TrainingRecord
from bench.records.store import INFERENCE_FILE, TRUNK_FILE, WEIGHTS_FILE, save_arrays
from bench.records.upkeep import at_work, fingerprints, sound_record
from bench.seeding import generator, seed_globally
from bench.storage import write_atomically
from bench.training.checkpoint import Checkpoint
from bench.training.loop import Settings, TrainingImages, train
from bench.training.reporter import Reporter

CHECKPOINT_FILE = "checkpoint.bin"
_EVAL_BATCH = 500
_EQUIVALENCE_IMAGES = 256


def perform(spec: RunSpec, place: Workplace) -> RunRecord:
    """Return the finished record of `spec`, from disk if it is there, else by doing the run.

    A run that fails leaves a record that says why, and raises.
    """
    found = sound_record(place.store, spec)
    checkpoint = place.store.runs_dir / spec.run / CHECKPOINT_FILE
    if found is not None and not checkpoint.exists():
        return found
    with at_work(place.store, spec, note=place.reporter.note) as found:
        # Found now: another process was at it, or one was killed just after it kept its record.
        record = found if found is not None else _done(spec, place)
        checkpoint.unlink(missing_ok=True)
    return record


def _done(spec: RunSpec, place: Workplace) -> RunRecord:
    place.reporter.run_started(spec.run)
    started = time.perf_counter()
    try:
        record = _perform(spec, place, started)
    except Exception as error:
        reason = error.message if isinstance(error, BenchError) else repr(error)
        failed = _record(spec, place, status="failed", reason=reason, started=started)
        # Where not even that can be kept, what went wrong first is what has to be said.
        with suppress(StorageError):
            place.store.save(failed)
        raise
    place.store.save(record)
    return record


def first_images(spec: RunSpec, place: Workplace, *, count: int) -> Tensor:
    """Return the first `count` test images on the device, normalised: (N, C, H, W)."""
    mean, std = spec.normalisation
    test = place.dataset.test
    few = test.take(torch.arange(min(count, len(test)))).to(place.device)
    return next(eval_batches(few, batch_size=count, mean=mean, std=std)).x_nchw


def _perform(spec: RunSpec, place: Workplace, started: float) -> RunRecord:
    method, config = method_of(spec)
    parent = None
    if spec.initial is not None and spec.initial.kind == "run":
        parent = parent_of(spec, place)
    seed_globally(spec.seed, "build")
    net = build(spec, place)
    if spec.compiled:
        net.compile()
    costs = _Costs(unit_macs(net), dense_macs(backbone_of(spec, place)))
    train_set, held_out = _split(spec, place)
    history, phases = train(
        net,
        method.phases(config, spec.budget),
        images=_training_images(train_set, spec, place),
        settings=Settings(spec.seed, place.device, spec.precision),
        checkpoint=Checkpoint(place.store.folder(spec) / CHECKPOINT_FILE, identity=spec.key),
        reporter=place.reporter,
        watch=None if held_out is None else partial(_watched, held_out, spec, costs),
    )
    if method.tags.calibrates and held_out is not None:
        with evaluating(net):
            method.calibrate(net, config, list(_batches(held_out, spec)))
    points = [
        _measure(number, point, spec, place, costs, held_out=held_out)
        for number, point in enumerate(method.operating_points(net, config))
    ]
    _keep_weights(net, points[0], spec, place)
    variant = method.variant(config)
    if isinstance(method, DerivedMethod) and parent is not None:
        label = f"{parent.spec.method} {parent.variant}".strip()
        variant = ", ".join(part for part in (f"of {label}", variant) if part)
    record = _record(spec, place, status="finished", reason="", started=started)
    return record.model_copy(
        update={
            "variant": variant,
            "role": method.tags.role,
            "decision": method.tags.decision,
            "dense_macs": costs.dense,
            "unit_macs": costs.units,
            "reconstructed": method.tags.reconstructed,
            "training": _training_record(spec, place, phases, dense=costs.dense, parent=parent),
            "history": tuple(history),
            "points": tuple(points),
            "files": fingerprints(place.store.folder(spec), _files(points)),
        }
    )


def _files(points: Sequence[PointRecord]) -> list[str]:
    arrays = [point.arrays_file for point in points]
    return [*arrays, WEIGHTS_FILE, INFERENCE_FILE, TRUNK_FILE]


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


def _split(spec: RunSpec, place: Workplace) -> tuple[ImageSet, ImageSet | None]:
    """Return the images to train on and those held out, both on the device."""
    train_set = place.dataset.train
    if spec.held_out == 0:
        return train_set.to(place.device), None
    rest, held_out = hold_out(train_set, spec.held_out, seed=spec.seed)
    return rest.to(place.device), held_out.to(place.device)


def _training_images(train_set: ImageSet, spec: RunSpec, place: Workplace) -> TrainingImages:
    mean, std = spec.normalisation
    padded = pad_images(train_set, place.dataset.info.pad)
    return TrainingImages(padded, place.dataset.info.flip, mean, std)


def _batches(images: ImageSet, spec: RunSpec) -> Iterator[Batch]:
    """Yield all images in a random order that is always the same, not augmented.

    Random, because shuffling masks within batches of sorted images would swap them among images
    of one class.
    """
    mean, std = spec.normalisation
    order_n = torch.randperm(len(images), generator=generator(0, "evaluation"))
    return eval_batches(images, batch_size=_EVAL_BATCH, mean=mean, std=std, order_n=order_n)


@dataclass(frozen=True, slots=True)
class _Costs:
    """MACs of each unit of a network, and of the dense backbone."""

    units: dict[str, int]
    dense: int


def _watched(held_out: ImageSet, spec: RunSpec, costs: _Costs, net: DynamicNet) -> dict[str, float]:
    """Return accuracy and nFLOPs of `net` on the held-out images."""
    evaluation = evaluate(net, _batches(held_out, spec), num_images=len(held_out))
    macs = mean_macs(evaluation, net=net, unit_macs=costs.units)
    return {"accuracy_held_out": evaluation.accuracy, "nflops_held_out": macs / costs.dense}


def _measure(
    number: int,
    point: Point,
    spec: RunSpec,
    place: Workplace,
    costs: _Costs,
    *,
    held_out: ImageSet | None,
) -> PointRecord:
    test = place.dataset.test.to(place.device)
    name = f"evaluation {point.name}".strip()
    place.reporter.phase_started(name, epochs=1, done=0, images_per_epoch=len(test))
    batches = _told(_batches(test, spec), place.reporter)
    evaluation = evaluate(point.net, batches, num_images=len(test))
    file = f"point{number}.npz"
    measured = point_record(
        point.name,
        evaluation,
        net=point.net,
        unit_macs=costs.units,
        dense_macs=costs.dense,
        arrays_file=file,
        equivalence=_proof(point.net, first_images(spec, place, count=_EQUIVALENCE_IMAGES)),
    )
    arrays = point_arrays(evaluation, net=point.net, unit_macs=costs.units)
    save_arrays(place.store.folder(spec), file, arrays)
    if held_out is not None:
        watched = _watched(held_out, spec, costs, point.net)
        measured = measured.model_copy(update=watched)
    if measured.distinct_masks == 1:
        return measured
    dynamics = _shuffled(point, evaluation, test, spec=spec, reporter=place.reporter)
    return measured.model_copy(update={"dynamics": dynamics})


def _shuffled(
    point: Point, evaluation: Evaluation, test: ImageSet, *, spec: RunSpec, reporter: Reporter
) -> Dynamics:
    name = f"masks shuffled {point.name}".strip()
    reporter.phase_started(name, epochs=1, done=0, images_per_epoch=len(test))
    try:
        shuffled = evaluate_permuted(
            point.net, _told(_batches(test, spec), reporter), num_images=len(test)
        )
    except Unsupported as error:
        return Dynamics(shuffled_reason=error.message)
    return Dynamics(
        shuffled_accuracy=shuffled.accuracy,
        shuffled_loss=evaluation.accuracy - shuffled.accuracy,
    )


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
    trunk = getattr(net, "trunk", None)
    if isinstance(trunk, ResNet) and trunk.is_complete:
        data = trunk_bytes(
            trunk.state_dict(),
            backbone=spec.backbone.name,
            normalisation=spec.normalisation,
        )
        write_atomically(folder / TRUNK_FILE, data)


def _state_bytes(net: DynamicNet) -> bytes:
    return save({key: value.cpu().contiguous() for key, value in net.state_dict().items()})


def _training_record(
    spec: RunSpec,
    place: Workplace,
    costs: Sequence[PhaseCost],
    *,
    dense: int,
    parent: RunRecord | None,
) -> TrainingRecord:
    epochs, dense_epochs = _spent_before(spec, parent)
    return TrainingRecord(
        train_images=len(place.dataset.train) - spec.held_out,
        phases=tuple(costs),
        epochs=sum(cost.epochs for cost in costs),
        dense_epochs=sum(cost.epochs * cost.macs_per_image for cost in costs) / dense,
        pretraining_epochs=epochs,
        pretraining_dense_epochs=dense_epochs,
    )


def _spent_before(spec: RunSpec, parent: RunRecord | None) -> tuple[int | None, float | None]:
    """Return epochs and dense epochs of what a run starts from, with all that came before."""
    if spec.initial is None:
        return 0, 0.0
    spent = parent.training if parent is not None else None
    if spent is None or spent.pretraining_epochs is None:
        return None, None
    assert spent.pretraining_dense_epochs is not None
    return (
        spent.epochs + spent.pretraining_epochs,
        spent.dense_epochs + spent.pretraining_dense_epochs,
    )
