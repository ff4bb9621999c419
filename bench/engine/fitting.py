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

_IMAGES, _FIRST, _FEWEST, _BATCH = 2000, 250, 10, 250
# Of paired differences of the loss, in standard errors: some choices are compared with each other.
_BETTER, _WORSE = 3.0, -3.0


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
    backbone = backbone_in(options, dataset.info)
    weights = fitted_to(weights, backbone)
    if weights.normalisation is not None or len(dataset.train) < 2 * _FEWEST:
        return weights
    held = hold_out(dataset.train, min(_IMAGES, len(dataset.train) // 2), seed=0)[1].held(device)
    used = normalisation_of(options, dataset.info, weights)
    trial = _Trial(backbone, held, device)
    if isinstance(backbone.family, CifarResNets) and backbone.shortcut == "A":
        weights = _laid_out(weights, used, trial, note)
    _remark(weights, used, usual_constants(dataset.info), trial, note)
    return weights


class _Trial:
    """Weights on images: the same ones for every choice, so that losses can be paired."""

    def __init__(self, backbone: Backbone, images: ImageSet, device: torch.device) -> None:
        self._backbone, self._images, self._device = backbone, images, device

    def of(self, weights: Weights, constants: Constants, *, count: int) -> Evaluation:
        """Return what becomes of the first `count` images, fewer where there are fewer."""
        net = GatedResNet(replace(self._backbone, weights=weights.state)).to(self._device)
        images = self._images.take(torch.arange(min(count, len(self._images))))
        mean, std = constants
        batches = eval_batches(images, batch_size=_BATCH, mean=mean, std=std)
        return evaluate(net, batches, num_images=len(images))

    def tells_classes(self, evaluation: Evaluation) -> bool:
        """Whether more is right than by guessing: losses of random weights mean nothing."""
        chance = 1 / self._backbone.num_classes
        error = math.sqrt(chance * (1 - chance) / len(evaluation.correct_n))
        return evaluation.accuracy > chance + _BETTER * error


def _laid_out(
    weights: Weights, used: Constants, trial: _Trial, note: Callable[[str], None]
) -> Weights:
    at_end = with_zeros_at_end(weights)
    theirs, ours = (trial.of(w, used, count=_FIRST) for w in (at_end, weights))
    if _standard_errors(ours, theirs) < _BETTER or not trial.tells_classes(theirs):
        return weights
    note(
        f"{weights.name} is read with the zero channels of shortcut A behind the others: accuracy "
        f"{theirs.accuracy:.3f} on {len(ours.loss_n)} training images, {ours.accuracy:.3f} with "
        "them on both sides"
    )
    return at_end


def _remark(
    weights: Weights,
    used: Constants,
    others: dict[str, Constants],
    trial: _Trial,
    note: Callable[[str], None],
) -> None:
    first = trial.of(weights, used, count=_FIRST)
    hopeful = {
        name: constants
        for name, constants in others.items()
        if constants != used
        and _standard_errors(first, trial.of(weights, constants, count=_FIRST)) > _WORSE
    }
    if not hopeful:
        return
    ours = trial.of(weights, used, count=_IMAGES)
    found = {name: trial.of(weights, c, count=_IMAGES) for name, c in hopeful.items()}
    best = min(found, key=lambda name: float(found[name].loss_n.mean()))
    if _standard_errors(ours, found[best]) > _BETTER and trial.tells_classes(found[best]):
        note(
            f"{weights.name} fits other constants of the images better: --normalise {best} (loss "
            f"{found[best].loss_n.mean():.4f} on {len(ours.loss_n)} training images, "
            f"{ours.loss_n.mean():.4f} with those used)"
        )


def _standard_errors(one: Evaluation, other: Evaluation) -> float:
    """Return by how many standard errors the loss of `other` is lower, image by image."""
    lower_n = (one.loss_n - other.loss_n).double()
    error = float(lower_n.std()) / math.sqrt(len(lower_n))
    return float(lower_n.mean()) / error if error > 0 else 0.0


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
