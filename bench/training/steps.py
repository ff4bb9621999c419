"""One step of training, and the sums of what it logs. Owns no order of images and no epoch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.data.augment import Batch
from bench.method import DynamicNet, Phase
from bench.recipes import Precision
from bench.training.optimizer import set_learning_rate


@dataclass(kw_only=True, eq=False)
class Steps:
    """The steps of one phase; sums what the phase logs."""

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
