"""The one training loop: all phases of any method, with checkpoints between epochs.

Every epoch seeds itself from (seed, phase, epoch), so a run continued from a checkpoint draws what
an uninterrupted one would have drawn and, on a CPU, ends in the same bits. Owns no loss.
"""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from pydantic import BaseModel
from torch import Tensor

from bench.data.augment import Batch, Trainable, steps_per_epoch, train_batches
from bench.errors import CheckpointError, DivergedError, PluginError
from bench.machine import keep_freed_memory
from bench.measure.cost import counted_macs
from bench.method import DynamicNet, Phase
from bench.recipes import Precision
from bench.records.record import EpochRow, PhaseCost
from bench.seeding import generator, seed_globally
from bench.storage import set_aside
from bench.training.checkpoint import Checkpoint, Position
from bench.training.optimizer import (
    build_optimizer,
    learning_rate,
    restore_optimizer,
    set_learning_rate,
)
from bench.training.reporter import Reporter

_CHECKPOINT_EVERY_S = 20.0
_LOOK_EVERY_STEPS = 64
_COUNTED_IMAGES = 8
_CPU = torch.device("cpu")

Watch = Callable[[DynamicNet], Mapping[str, float]]
"""What is measured of the network after each epoch, on images that are not trained on."""


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """What is trained on and how, apart from what the phases say; `mean` and `std` normalise."""

    images: Trainable
    mean: tuple[float, ...]
    std: tuple[float, ...]
    checkpoint: Checkpoint
    seed: int = 0
    device: torch.device = _CPU
    precision: Precision = "fp32"
    reporter: Reporter = field(default_factory=Reporter)
    watch: Watch | None = None


class _Log(BaseModel):
    """What has been recorded so far; travels through checkpoints as JSON."""

    rows: list[EpochRow]
    costs: list[PhaseCost]


def train(
    net: DynamicNet, phases: Sequence[Phase], training: Training
) -> tuple[list[EpochRow], list[PhaseCost]]:
    """Train `net` in place through all phases; return the history and what each phase spent.

    What `watch` measures stands in each epoch's row beside the losses; its time does not count.

    Raises:
        DivergedError: a loss is not finite.
    """
    keep_freed_memory()
    position = _resume(training.checkpoint, training.reporter)
    log = _Log(rows=[], costs=[])
    if position is not None:
        net.load_state_dict(position.net)
        log = _Log.model_validate_json(position.log)
        for row in log.rows:
            training.reporter.epoch_finished(row)
    for number, phase in enumerate(phases):
        if phase.epochs == 0 or (position is not None and number < position.phase):
            continue
        under_way, first = PhaseRun(number, phase, net, training), 0
        if position is not None and number == position.phase:
            restore_optimizer(under_way.optimizer, position.optimizer)
            first = position.epoch
        under_way.run(first, log)
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    return log.rows, log.costs


def _resume(checkpoint: Checkpoint, reporter: Reporter) -> Position | None:
    try:
        return checkpoint.load()
    except CheckpointError as error:
        aside = set_aside(checkpoint.path)
        assert aside is not None, "it was just read"
        reporter.note(f"{error.message} Set aside as {aside.name}; training starts over.")
        return None


class PhaseRun:
    """One phase under way."""

    def __init__(self, number: int, phase: Phase, net: DynamicNet, training: Training) -> None:
        self.number, self.phase, self.net, self.training = number, phase, net, training
        self.batch_size = min(phase.batch_size, len(training.images))
        self.steps = steps_per_epoch(len(training.images), batch_size=self.batch_size)
        self.total_steps = self.steps * phase.epochs
        freeze_all_but(phase, net)
        self.optimizer = build_optimizer(phase.groups(net), phase.optimizer)
        zero = partial(torch.zeros, (), device=training.device)
        self.sums: dict[str, Tensor] = defaultdict(zero)  # of what is logged, since the epoch began

    def run(self, first_epoch: int, log: _Log) -> None:
        """Train from an epoch on, counted from 0; the log grows by what is done."""
        phase, training, saved_at = self.phase, self.training, time.monotonic()
        training.reporter.phase_started(
            phase.name,
            epochs=phase.epochs,
            done=first_epoch,
            images_per_epoch=self.steps * self.batch_size,
        )
        if first_epoch == 0:
            log.costs.append(
                PhaseCost(
                    name=phase.name,
                    epochs=phase.epochs,
                    step_macs_per_image=self._step_macs_per_image(),
                    wall_s=0.0,
                    optimizer=phase.optimizer,
                    batch_size=self.batch_size,
                )
            )
        for epoch in range(first_epoch, phase.epochs):
            row = self._epoch(epoch)
            log.rows.append(row)
            spent = log.costs[-1]
            log.costs[-1] = spent.model_copy(update={"wall_s": spent.wall_s + row.wall_s})
            last = epoch + 1 == phase.epochs
            if last or time.monotonic() - saved_at > _CHECKPOINT_EVERY_S:
                states = self.net.state_dict(), self.optimizer.state_dict()
                position = Position(self.number, epoch + 1, *states, log.model_dump_json())
                training.checkpoint.save(position)
                saved_at = time.monotonic()
            # Last: a listener may end the process here.
            training.reporter.epoch_finished(row)

    def _epoch(self, epoch: int) -> EpochRow:
        started = time.perf_counter()
        seed_globally(self.training.seed, "train", self.number, epoch)
        self.phase.set_modes(self.net)
        for total in self.sums.values():
            total.zero_()
        first_step = epoch * self.steps
        for step, batch in enumerate(self._batches("order", epoch), start=first_step):
            self.step(batch, step)
            self.training.reporter.advanced(len(batch))
            # An epoch may take an hour; a look at every step would hold up the device.
            if (step + 1 - first_step) % _LOOK_EVERY_STEPS == 0:
                self._finite_means(epoch)
        values = self._finite_means(epoch)
        wall_s = time.perf_counter() - started
        if self.training.watch is not None:
            values |= self.training.watch(self.net)
        return EpochRow(
            phase=self.phase.name,
            epoch=epoch + 1,
            lr=self._lr(first_step),
            images_per_s=self.steps * self.batch_size / wall_s,
            wall_s=wall_s,
            values=values,
        )

    def step(self, batch: Batch, step: int) -> None:
        """Do one step, `step` counted from the beginning of the phase."""
        set_learning_rate(self.optimizer, self._lr(step))
        bf16 = self.training.precision == "bf16"
        with torch.autocast(self.training.device.type, torch.bfloat16, enabled=bf16):
            terms = self.phase.loss(self.net, batch, step / self.total_steps)
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        for name, value in terms.parts.items():
            self.sums[name] += value.detach()
        if terms.logits is not None:
            right = terms.logits.detach().argmax(dim=1) == batch.labels_n
            self.sums["accuracy_train"] += right.float().mean()

    def _lr(self, step: int) -> float:
        return learning_rate(self.phase.optimizer, step=step, total_steps=self.total_steps)

    def _batches(self, purpose: str, epoch: int) -> Iterator[Batch]:
        return train_batches(
            self.training.images,
            batch_size=self.batch_size,
            mean=self.training.mean,
            std=self.training.std,
            generator=generator(self.training.seed, purpose, self.number, epoch),
        )

    def _finite_means(self, epoch: int) -> dict[str, float]:
        """Return the sums over the steps of an epoch; waits for the device."""
        values = {name: float(total) / self.steps for name, total in self.sums.items()}
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise DivergedError(
                f"'{broken[0]}' is {values[broken[0]]} in epoch {epoch + 1} of phase "
                f"'{self.phase.name}': likely a learning rate ({self.phase.optimizer.lr:g}) "
                "that is too large for this start.",
                hint="Run again with a smaller learning rate: --set train.lr=...",
            )
        return values

    def _step_macs_per_image(self) -> float:
        seed_globally(self.training.seed, "count", self.number)
        batch = next(iter(self._batches("count", 0)))
        return step_macs_per_image(self.phase, self.net, batch)


def step_macs_per_image(phase: Phase, net: DynamicNet, batch: Batch) -> float:
    """Count the MACs of one step, forward and backward, on a few images of `batch`.

    On a copy of `net`, at the middle of the phase. Of the backward pass only what runs is counted:
    nothing reaches back through parameters that the phase freezes.
    """
    net = copy.deepcopy(net)
    freeze_all_but(phase, net)
    phase.set_modes(net)
    count = min(_COUNTED_IMAGES, len(batch))
    few = Batch(batch.x_nchw[:count], batch.labels_n[:count], batch.index_n[:count])
    try:
        return counted_macs(lambda: phase.loss(net, few, 0.5).total.backward()) / count  # type: ignore[no-untyped-call]
    except PluginError as error:
        raise PluginError(f"The loss of '{phase.name}': {error.message}") from error


def freeze_all_but(phase: Phase, net: DynamicNet) -> None:
    """Let only the parameters that a phase changes ask for gradients."""
    chosen = {id(p) for group in phase.groups(net) for p in group.parameters}
    for parameter in net.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
