"""One run from spec to record: build, train, evaluate, keep. The same for every engine.

Owns the order of the steps and what lands in a run's folder; time is measured elsewhere, when all
networks of a comparison are ready.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from bench.config import RunSpec
from bench.data.augment import train_batches
from bench.data.streaming import trainable
from bench.engine.building import Workplace, brought_along, build, method_of, parent_of
from bench.engine.conforming import check_trained, check_untrained
from bench.engine.decisions import check_code, note_changes
from bench.engine.evaluating import (
    RandomBatches,
    RunContext,
    context_of,
    measure,
    save_positions,
    watched,
)
from bench.engine.supervising import reason_for
from bench.errors import NotApplicable, StorageError
from bench.measure.environment import describe_environment
from bench.measure.modes import evaluating
from bench.method import METHODS, DerivedMethod, DynamicNet, Point
from bench.networks.trunk import Trunk
from bench.networks.weights import trunk_bytes
from bench.records.arrays import save_arrays
from bench.records.record import PhaseCost, PointRecord, RunRecord, Status, TrainingRecord
from bench.records.store import INFERENCE_FILE, TRUNK_FILE, WEIGHTS_FILE
from bench.records.upkeep import at_work, fingerprints, sound_record
from bench.seeding import generator, seed_globally
from bench.storage import write_atomically
from bench.training.checkpoint import Checkpoint
from bench.training.loop import Training, train
from bench.training.statistics import reestimate

CHECKPOINT_FILE = "checkpoint.bin"
_STATISTICS_IMAGES = 10_000


def perform(spec: RunSpec, place: Workplace) -> RunRecord:
    """Return the finished record of `spec`, from disk if it is there, else by doing the run.

    A run that fails leaves a record that says why, and raises. Whether the code of the method has
    changed since an earlier run is said.
    A control that does not apply to its source leaves, and gives, a record without points that
    says why.
    """
    found = recorded(spec, place)
    note_changes(spec, found, place)
    if found is not None:
        return found
    check_code(spec)
    with at_work(place.store, spec, note=place.reporter.note) as found:
        # Found now: another process was at it, or one was killed just after it kept its record.
        record = found if found is not None else _done(spec, place)
        _checkpoint_file(spec, place).unlink(missing_ok=True)
    return record


def recorded(spec: RunSpec, place: Workplace) -> RunRecord | None:
    """Return the finished record of `spec` if it is on disk and nothing is left to do."""
    found = sound_record(place.store, spec)
    return None if _checkpoint_file(spec, place).exists() else found


def _checkpoint_file(spec: RunSpec, place: Workplace) -> Path:
    return place.store.runs_dir / spec.run / CHECKPOINT_FILE


def _done(spec: RunSpec, place: Workplace) -> RunRecord:
    place.reporter.run_started(spec.run)
    started, info = time.perf_counter(), place.dataset.info

    def record(status: Status, **found: Any) -> RunRecord:
        return RunRecord(
            run=spec.run,
            spec=spec,
            status=status,
            dataset_title=info.title,
            synthetic=info.synthetic,
            test_images=len(place.dataset.test),
            environment=describe_environment(place.device),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            wall_s=time.perf_counter() - started,
            **found,
        )

    try:
        done = record("finished", **_perform(spec, place))
    except NotApplicable as error:
        done = record("not applicable", reason=error.message)
    except Exception as error:
        # Where not even that can be kept, what went wrong first is what has to be said.
        with suppress(StorageError):
            place.store.save(record("failed", reason=reason_for(error)))
        raise
    place.store.save(done)
    return done


def _perform(spec: RunSpec, place: Workplace) -> dict[str, Any]:
    """Do the run; return what its record says of it."""
    method, config = method_of(spec)
    parent = None
    if spec.initial is not None and spec.initial.kind == "run":
        parent = parent_of(spec, place)
    seed_globally(spec.seed, "build")
    net = build(spec, place)
    brought = brought_along(net, spec, place)
    context = context_of(spec, place, net)
    check_untrained(net, context)
    if spec.compiled:
        net.compile()
    history, phases = train(
        net,
        method.phases(config, spec.budget),
        Training(
            trainable(context.train, place.dataset),
            *spec.normalisation,
            Checkpoint(place.store.folder(spec) / CHECKPOINT_FILE, identity=spec.key),
            spec.seed,
            place.device,
            spec.precision,
            place.reporter,
            None if context.held_out is None else partial(watched, context),
        ),
    )
    restated = _restate(net, context) if method.tags.samples and phases else 0
    if method.tags.calibrates and context.held_out is not None:
        with evaluating(net):
            method.calibrate(net, config, RandomBatches(context.held_out, spec))
    conformance = check_trained(net, context)
    points = [
        _measure(number, point, context)
        for number, point in enumerate(method.operating_points(net, config))
    ]
    _keep_weights(net, points[0], spec, place)
    variant = method.variant(config)
    if isinstance(method, DerivedMethod) and parent is not None:
        label = f"{parent.spec.method} {parent.variant}".strip()
        variant = ", ".join(part for part in (f"of {label}", variant) if part)
    return {
        "code": METHODS.code(spec.method),
        "variant": variant,
        "role": method.tags.role,
        "decision": method.tags.decision,
        "dense_macs": context.dense_macs,
        "unit_macs": context.unit_macs,
        "reconstructed": method.tags.reconstructed,
        "training": TrainingRecord(
            train_images=len(place.dataset.train) - spec.held_out,
            phases=tuple(phases),
            epochs=sum(phase.epochs for phase in phases),
            published_epochs=method.published_epochs(config) if spec.budget.published else None,
            dense_epochs=dense_epochs(phases, dense=context.dense_macs),
            statistics_images=restated,
            **_spent_before(spec, parent, brought=brought),
        ),
        "history": tuple(history),
        "points": tuple(points),
        "conformance": conformance,
        # Not the maps of positions: they may also be added later, when the record is written.
        "files": fingerprints(
            place.store.folder(spec),
            [*(p.arrays_file for p in points), WEIGHTS_FILE, INFERENCE_FILE, TRUNK_FILE],
        ),
    }


def _restate(net: DynamicNet, context: RunContext) -> int:
    """Estimate batch-norm statistics under the decisions of inference; return on how many images.

    The images are drawn, the same ones for every run, and augmented as in training: with the
    statistics of images that are not cropped a ResNet-14 on CIFAR-10 lost 2.7 points.
    """
    train_set, spec, draws = context.train, context.spec, generator(0, "statistics")
    order_n = torch.randperm(len(train_set), generator=draws)
    few = train_set.take(order_n[:_STATISTICS_IMAGES])
    mean, std = spec.normalisation
    batches = train_batches(
        trainable(few, context.place.dataset),
        batch_size=min(spec.budget.batch_size, len(few)),
        mean=mean,
        std=std,
        generator=draws,
    )
    return reestimate(net, batches)


def _measure(number: int, point: Point, context: RunContext) -> PointRecord:
    record, arrays = measure(number, point, context)
    folder = context.place.store.folder(context.spec)
    save_arrays(folder, record.arrays_file, arrays)
    file = save_positions(number, point.net, arrays["macs_n"], context)
    return record.model_copy(update={"positions_file": file})


def _keep_weights(net: DynamicNet, point: PointRecord, spec: RunSpec, place: Workplace) -> None:
    folder = place.store.folder(spec)
    write_atomically(folder / WEIGHTS_FILE, _state_bytes(net))
    shipped = net.inference_net(dead_blocks=frozenset(point.dead_blocks))
    write_atomically(folder / INFERENCE_FILE, _state_bytes(shipped))
    trunk = getattr(net, "trunk", None)
    if isinstance(trunk, Trunk) and trunk.is_complete:
        state, name = trunk.state_dict(), spec.backbone.name
        data = trunk_bytes(state, backbone=name, normalisation=spec.normalisation)
        write_atomically(folder / TRUNK_FILE, data)


def _state_bytes(net: DynamicNet) -> bytes:
    return save({key: value.cpu().contiguous() for key, value in net.state_dict().items()})


def dense_epochs(costs: Sequence[PhaseCost], *, dense: int) -> float:
    """Return the cost of training in epochs of a dense network of `dense` forward MACs.

    A step of it counts as 3 times that: forward, and backward to the activations and the weights.
    """
    return sum(cost.epochs * (cost.step_macs_per_image / (3 * dense)) for cost in costs)


def _spent_before(spec: RunSpec, parent: RunRecord | None, *, brought: str) -> dict[str, Any]:
    """Return what is recorded of the start, with all that came before it."""
    unknown = {"pretraining_epochs": None, "pretraining_dense_epochs": None}
    if brought:
        return unknown | {"pretraining_reason": brought}
    if spec.initial is None:
        return {"pretraining_epochs": 0, "pretraining_dense_epochs": 0.0}
    spent = parent.training if parent is not None else None
    if spent is None:
        return unknown
    if spent.pretraining_epochs is None or spent.pretraining_dense_epochs is None:
        return unknown | {"pretraining_reason": spent.pretraining_reason}
    return {
        "pretraining_epochs": spent.epochs + spent.pretraining_epochs,
        "pretraining_dense_epochs": spent.dense_epochs + spent.pretraining_dense_epochs,
    }
