"""What is measured of a trained network: the same at the end of its run and long after.

Owns which images are used for what, and the order of the passes over one operating point. What a
pass measures is bench.measure's business; what becomes of the numbers, the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.analysis.statistics import extremes_of, rank_correlation
from bench.config import RunSpec
from bench.data.augment import Batch, eval_batches
from bench.data.images import Images, hold_out
from bench.engine.building import Workplace, backbone_of
from bench.errors import NotExecutable, Unsupported
from bench.measure.accuracy import (
    Evaluation,
    evaluate,
    evaluate_permuted,
    macs_of,
    point_arrays,
    point_record,
)
from bench.measure.cost import dense_macs, unit_macs
from bench.measure.equivalence import IMAGES, check_execution
from bench.measure.gradients import block_gradients
from bench.measure.modes import evaluating
from bench.method import DynamicNet, Point
from bench.records.arrays import save_arrays
from bench.records.record import Dynamics, PointRecord
from bench.seeding import generator

_EVAL_BATCH = 500
_GRADIENT_IMAGES = 1024
_GRADIENT_BATCH = 128
_BATCH_PIXELS = 2**21  # large images come in smaller batches: what a layer keeps takes memory


@dataclass(frozen=True, slots=True)
class RunContext:
    """A run whose networks are measured: the images on the device that it trains on and holds out,
    MACs of each unit and of the dense backbone."""

    spec: RunSpec
    place: Workplace
    train: Images
    held_out: Images | None
    unit_macs: dict[str, int]
    dense_macs: int


@dataclass(frozen=True, slots=True)
class RandomBatches:
    """All images in a random order that is always the same, not augmented; read each time anew.

    Random, because shuffling masks within batches of sorted images would swap them among images
    of one class.
    """

    images: Images
    spec: RunSpec

    def __iter__(self) -> Iterator[Batch]:
        order_n = torch.randperm(len(self.images), generator=generator(0, "evaluation"))
        return _batches(self.images, self.spec, order_n, most=_EVAL_BATCH)


def context_of(spec: RunSpec, place: Workplace, net: DynamicNet) -> RunContext:
    """Return what is needed to measure `net`, or another operating point of it."""
    train, held_out = place.dataset.train, None
    if spec.held_out:
        train, held_out = hold_out(train, spec.held_out, seed=spec.seed)
        held_out = held_out.to(place.device)
    macs = unit_macs(net), dense_macs(backbone_of(spec, place))
    return RunContext(spec, place, train.to(place.device), held_out, *macs)


def measure(
    number: int, point: Point, context: RunContext
) -> tuple[PointRecord, Mapping[str, npt.NDArray[Any]]]:
    """Return what is found of operating point `number` on test, held-out and training images: its
    record, and the arrays that belong into `arrays_file`.

    Gradients are taken at the first point, the default one, alone: each time costs as much as
    training on a few thousand images.
    """
    spec, place = context.spec, context.place
    test = place.dataset.test.to(place.device)
    batches = _told(f"evaluation {point.name}", RandomBatches(test, spec), len(test), place)
    evaluation = evaluate(point.net, batches, num_images=len(test))
    try:
        proof = check_execution(point.net, first_images(spec, place, count=IMAGES))
    except NotExecutable as error:
        proof = f"no skipping path: {error.message}"
    measured = point_record(
        point.name,
        evaluation,
        net=point.net,
        unit_macs=context.unit_macs,
        dense_macs=context.dense_macs,
        arrays_file=f"point{number}.npz",
        equivalence=proof,
    )
    arrays = point_arrays(evaluation, net=point.net, unit_macs=context.unit_macs)
    more: dict[str, object] = {}
    if context.held_out is not None:
        more |= watched(context, point.net)
    if measured.distinct_masks != 1:
        found = _shuffled(point, evaluation, test, context)
        grades_n = place.dataset.difficulty_n
        if grades_n is not None:
            correlation = rank_correlation(arrays["macs_n"], grades_n.numpy())
            found = found.model_copy(update={"grade_correlation": correlation})
        more["dynamics"] = found
    if number == 0:
        more |= _gradients(point, context)
    else:
        more["block_gradients_reason"] = "taken at the first operating point only"
    return measured.model_copy(update=more), arrays


def save_positions(
    number: int, net: DynamicNet, macs_n: npt.NDArray[Any], context: RunContext
) -> str:
    """Save where in the cheapest and most expensive test images `net` spends its blocks; return
    the name of the file, '' where the network does not decide per position.

    `image_m` are their places in the test set, `blocks_mhw` the blocks that run at each pixel.
    """
    found = extremes_of(macs_n / max(context.dense_macs, 1))
    image_m = np.array([*found.cheapest, *found.most_expensive], dtype=np.int64)
    if not len(image_m):
        return ""
    spec, place = context.spec, context.place
    batch = few_images(place.dataset.test, torch.from_numpy(image_m), spec, place.device)
    with evaluating(net):
        blocks_mhw = net.position_costs(batch.x_nchw)
    if blocks_mhw is None:
        return ""
    file, blocks = f"positions{number}.npz", blocks_mhw.half().cpu().numpy()
    save_arrays(place.store.folder(spec), file, {"image_m": image_m, "blocks_mhw": blocks})
    return file


def watched(context: RunContext, net: DynamicNet) -> dict[str, float]:
    """Return accuracy and nFLOPs of `net` on the held-out images."""
    held_out = context.held_out
    assert held_out is not None
    batches = RandomBatches(held_out, context.spec)
    evaluation = evaluate(net, batches, num_images=len(held_out))
    macs = macs_of(evaluation, net, context.unit_macs).mean().item()
    return {
        "accuracy_held_out": evaluation.accuracy,
        "nflops_held_out": macs / context.dense_macs,
    }


def first_images(spec: RunSpec, place: Workplace, *, count: int) -> Tensor:
    """Return the first `count` test images on the device, normalised: (N, C, H, W)."""
    test = place.dataset.test
    return few_images(test, torch.arange(min(count, len(test))), spec, place.device).x_nchw


def few_images(images: Images, order_n: Tensor, spec: RunSpec, device: torch.device) -> Batch:
    """Return some of the images as one batch on the device, normalised, not augmented."""
    mean, std = spec.normalisation
    held = images.take(order_n).held(device)
    return next(eval_batches(held, batch_size=len(order_n), mean=mean, std=std))


def _batches(images: Images, spec: RunSpec, order_n: Tensor, *, most: int) -> Iterator[Batch]:
    """Yield batches, of fewer than `most` images where these are large."""
    mean, std = spec.normalisation
    size = min(most, max(1, _BATCH_PIXELS // images.pixels))
    return eval_batches(images, batch_size=size, mean=mean, std=std, order_n=order_n)


def _shuffled(point: Point, evaluation: Evaluation, test: Images, context: RunContext) -> Dynamics:
    shuffled = RandomBatches(test, context.spec)
    batches = _told(f"masks shuffled {point.name}", shuffled, len(test), context.place)
    try:
        accuracy = evaluate_permuted(point.net, batches, num_images=len(test)).accuracy
    except Unsupported as error:
        return Dynamics(shuffled_reason=error.message)
    return Dynamics(shuffled_accuracy=accuracy, shuffled_loss=evaluation.accuracy - accuracy)


def _gradients(point: Point, context: RunContext) -> dict[str, object]:
    """Return the fields of the record about gradients, on some of the images trained on."""
    train = context.train
    # Drawn, because a folder's images lie sorted by class; the same ones for every run.
    order_n = torch.randperm(len(train), generator=generator(0, "gradients"))[:_GRADIENT_IMAGES]
    batches = _batches(train, context.spec, order_n, most=_GRADIENT_BATCH)
    batches = _told(f"gradients {point.name}", batches, len(order_n), context.place)
    try:
        found = block_gradients(point.net, batches)
    except Unsupported as error:
        return {"block_gradients_reason": error.message}
    return {"block_gradients": found}


def _told(name: str, batches: Iterable[Batch], images: int, place: Workplace) -> Iterator[Batch]:
    """Yield the batches of a pass over `images`, and let the reporter hear of it."""
    place.reporter.phase_started(name.strip(), epochs=1, done=0, images_per_epoch=images)
    for batch in batches:
        yield batch
        place.reporter.advanced(len(batch))
