"""What is tried before a run: how given weights are read, and `--precision auto`.

Which constants of the images and which zero channels weights were trained with stands in no file of
other trainers, and a wrong guess costs accuracy in silence: judged by the loss on training images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import torch
import torch.nn.functional as F

from bench.config import RunSpec
from bench.data.augment import eval_batches
from bench.data.images import Constants, Dataset, ImageSet, hold_out
from bench.data.normalising import usual_constants
from bench.engine.plan import Planned, backbone_in, normalisation_of
from bench.measure.accuracy import Evaluation, evaluate
from bench.measure.modes import using_threads
from bench.networks.cifar_resnet import CifarResNets
from bench.networks.gated import GatedResNet
from bench.networks.trunk import Backbone
from bench.networks.weights import Weights, fitted_to, with_zeros_at_end
from bench.options import RunOptions
from bench.recipes import Precision

_IMAGES, _FEWEST, _BATCH = 1000, 10, 250
# Of paired differences of the loss, in standard errors: some choices are compared with each other.
_BETTER = 3.0


def fitted(
    weights: Weights,
    options: RunOptions,
    dataset: Dataset,
    *,
    device: torch.device,
    note: Callable[[str], None],
) -> Weights:
    """Return the weights as they fit training images best; say what was found of both choices.

    Weights that this project wrote name their constants and are taken as they are. The constants
    are never changed here: where others fit better, the remark says how to choose them.

    Raises:
        ConfigError: `--normalise` cannot be used.
        WeightsError: the weights do not fit the backbone.
    """
    info = dataset.info
    backbone = backbone_in(options, info)
    weights = fitted_to(weights, backbone)
    if weights.normalisation is not None or len(dataset.train) < 2 * _FEWEST:
        return weights
    held = hold_out(dataset.train, min(_IMAGES, len(dataset.train) // 2), seed=0)[1].held(device)
    used = normalisation_of(options, info, weights)
    ours = _tried(weights, used, backbone, held)
    if isinstance(backbone.family, CifarResNets) and backbone.shortcut == "A":
        at_end = with_zeros_at_end(weights)
        theirs = _tried(at_end, used, backbone, held)
        if _is_better(theirs, ours, backbone):
            note(
                f"{weights.name} is read with the zero channels of shortcut A behind the others: "
                f"accuracy {theirs.accuracy:.3f} on {len(held)} training images, "
                f"{ours.accuracy:.3f} with them on both sides"
            )
            weights, ours = at_end, theirs
    others = {
        name: _tried(weights, constants, backbone, held)
        for name, constants in usual_constants(info).items()
        if constants != used
    }
    best = min(others, key=lambda name: float(others[name].loss_n.mean()), default="")
    if best and _is_better(others[best], ours, backbone):
        note(
            f"{weights.name} fits other constants of the images better: --normalise {best} (loss "
            f"{others[best].loss_n.mean():.4f} on {len(held)} training images, "
            f"{ours.loss_n.mean():.4f} with those used)"
        )
    return weights


def _tried(
    weights: Weights, constants: Constants, backbone: Backbone, images: ImageSet
) -> Evaluation:
    """Return what becomes of the images, on their device."""
    mean, std = constants
    net = GatedResNet(replace(backbone, weights=weights.state)).to(images.labels_n.device)
    batches = eval_batches(images, batch_size=_BATCH, mean=mean, std=std)
    return evaluate(net, batches, num_images=len(images))


def _is_better(one: Evaluation, other: Evaluation, backbone: Backbone) -> bool:
    """Whether the loss of `one` is surely lower, image by image, and more is right than by
    guessing: losses of random weights mean nothing."""
    lower_n, images = (other.loss_n - one.loss_n).double(), len(one.loss_n)
    chance = 1 / backbone.num_classes
    error = math.sqrt(chance * (1 - chance) / images)
    surely_lower = float(lower_n.mean()) * math.sqrt(images) > _BETTER * float(lower_n.std())
    return surely_lower and one.accuracy > chance + _BETTER * error


_WARM_UP, _STEPS = 2, 5
# A batch of 128 images of 32 x 32 pixels, or as many pixels: a second or two in all.
_PIXELS = 128 * 32 * 32
_WORTH = 1.2
_chosen: dict[tuple[str, tuple[int, int, int], torch.device], Precision] = {}


def faster_precision(
    backbone: Backbone, device: torch.device, *, note: Callable[[str], None]
) -> Precision:
    """Return bf16 if it trains the dense network at least 1.2 times as fast as fp32, else fp32.

    Both take turns on blank images, on one CPU thread or the device. Tried once in a process;
    `note` says what came out.
    """
    key = (backbone.name, backbone.image_shape, device)
    if key not in _chosen:
        with using_threads(1), torch.random.fork_rng():
            ratio = _speed_of_bf16(backbone, device)
        _chosen[key] = "bf16" if ratio >= _WORTH else "fp32"
        note(
            f"Precision {_chosen[key]}: in bf16 {backbone.name} trains at {ratio:.2f}x the speed of"
            " fp32 on this machine"
        )
    return _chosen[key]


def with_finished(
    plan: Sequence[Planned], other: Sequence[Planned], *, finished: Callable[[RunSpec], bool]
) -> list[Planned]:
    """Return `plan`, with the runs that are finished in the other precision, and what needs them,
    taken from `other`: the same options, so that it continues on a machine that chooses otherwise.
    """
    taken: set[str] = set()
    chosen: list[Planned] = []
    for mine, theirs in zip(plan, other, strict=True):
        follows = theirs.needs is not None and theirs.needs.run in taken
        if follows or (not finished(mine.spec) and finished(theirs.spec)):
            taken.add(theirs.spec.run)
            chosen.append(theirs)
        else:
            chosen.append(mine)
    return chosen


def _speed_of_bf16(backbone: Backbone, device: torch.device) -> float:
    net = GatedResNet(backbone).to(device).to(memory_format=torch.channels_last)
    _, height, width = backbone.image_shape
    count = max(2, min(128, _PIXELS // (height * width)))
    x_nchw = torch.zeros(count, *backbone.image_shape, device=device)
    x_nchw = x_nchw.contiguous(memory_format=torch.channels_last)
    labels_n = torch.zeros(count, dtype=torch.long, device=device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)

    def step(precision: Precision) -> float:
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(net(x_nchw).logits, labels_n)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - started

    turns = [(step("fp32"), step("bf16")) for _ in range(_WARM_UP + _STEPS)][_WARM_UP:]
    return median(fp32 for fp32, _ in turns) / median(bf16 for _, bf16 in turns)
