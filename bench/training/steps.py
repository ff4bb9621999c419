"""One step of training: from Python, or on a GPU recorded once and replayed.

A step of a small network is some hundred short kernels; launching them one by one takes several
times as long as running them. Owns no order of images and no epoch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from bench.data.augment import Batch
from bench.method import DynamicNet, Phase
from bench.networks.tapes import Record, Tape
from bench.recipes import Precision
from bench.training.optimizer import set_learning_rate

_WARM_STEPS = 3


@dataclass(kw_only=True, eq=False)
class Steps:
    """The steps of one phase, each from Python; sums what the phase logs."""

    phase: Phase
    net: DynamicNet
    optimizer: torch.optim.Optimizer
    device: torch.device
    precision: Precision

    def __post_init__(self) -> None:
        self._sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))

    def start_epoch(self) -> None:
        """Sum from zero again."""
        for total in self._sums.values():
            total.zero_()

    def sums(self) -> Mapping[str, float]:
        """Return the sums since the epoch began; waits for the device."""
        return {name: float(total) for name, total in self._sums.items()}

    def step(self, batch: Batch, *, lr: float, progress: float) -> None:
        """Do one step at this learning rate; `progress` is that of the phase, from 0 to 1."""
        set_learning_rate(self.optimizer, lr)
        self._do(batch, progress)

    def _do(self, batch: Batch, progress: float) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            terms = self.phase.loss(self.net, batch, progress)
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        for name, value in terms.parts.items():
            self._sums[name] += value.detach()
        if terms.logits is not None:
            right = terms.logits.detach().argmax(dim=1) == batch.labels_n
            self._sums["accuracy_train"] += right.float().mean()


@dataclass(kw_only=True, eq=False)
class RecordedSteps(Steps):
    """The same for a phase that says it is recordable: after a few steps from Python, replayed.

    The optimizer must be fused. Learning rates and progress are tensors that each step fills. If
    recording fails, `note` is told why, and steps go on from Python.
    """

    record: Record
    note: Callable[[str], None]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._lr = [torch.zeros((), device=self.device) for _ in self.optimizer.param_groups]
        self._progress = torch.zeros((), device=self.device)
        self._batch: Batch | None = None
        self._tape: Tape | None = None
        self._steps = 0

    def step(self, batch: Batch, *, lr: float, progress: float) -> None:
        self._progress.fill_(progress)
        for rate, group in zip(self._lr, self.optimizer.param_groups, strict=True):
            group["lr"] = rate.fill_(lr * group["lr_scale"])
        self._steps += 1
        if self._tape is not None:
            self._place(batch)
            self._tape()
        else:
            self._do_recordable(batch)
            if self._steps == _WARM_STEPS:
                self._try_to_record(batch)

    def _try_to_record(self, batch: Batch) -> None:
        """Record what the following steps do; nothing is done by that."""
        placed = self._place(batch)
        try:
            self._tape, _ = self.record(lambda: self._do_recordable(placed), warm=lambda: None)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            self.note(f"The steps of '{self.phase.name}' cannot be recorded: {reason}")

    def _do_recordable(self, batch: Batch) -> None:
        self._do(batch, cast(float, self._progress))

    def _place(self, batch: Batch) -> Batch:
        """Copy a batch to where the tape reads it."""
        if self._batch is None:
            self._batch = Batch(batch.x_nchw.clone(), batch.labels_n.clone(), batch.index_n.clone())
        else:
            self._batch.x_nchw.copy_(batch.x_nchw)
            self._batch.labels_n.copy_(batch.labels_n)
            self._batch.index_n.copy_(batch.index_n)
        return self._batch
