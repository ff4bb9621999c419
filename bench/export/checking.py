"""Whether a file computes what its run computes: asked before it is written.

Owns no rule of its own: logits, trace and what rounding excuses are those of the equality proof;
the class must be the same as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.errors import EquivalenceError
from bench.measure.equivalence import check_execution
from bench.networks.unit import DynamicNet, Output, Unit

Answer = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From images (N, C, H, W) to logits (N, K) and the trace (N, U)."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """On how many images, each by itself too where a file takes one, and how closely."""

    images: int
    largest_difference: float


def compare(run: DynamicNet, answer: Answer, x_nchw: Tensor) -> Agreement:
    """Compare a file with the skipping path of its run, on at least 256 images.

    Raises:
        EquivalenceError: logits differ, another class is chosen, or other units ran.
        NotExecutable: the run has no skipping path.
    """
    pair = _RunAndFile(run, answer)
    try:
        check_execution(pair, x_nchw)
    except EquivalenceError as error:
        raise EquivalenceError(
            f"the file would not compute what the run computes. {error.message}",
            hint="The skipping path is the run's, the masked path what was to be written.",
        ) from error
    if pair.other_class:
        raise EquivalenceError(
            f"the file would choose another class for {pair.other_class} of {len(x_nchw)} images."
        )
    return Agreement(len(x_nchw), pair.largest)


def one_by_one(answer: Answer) -> Answer:
    """Return an answer to batches from one that takes a single image."""

    def answer_all(x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        singles = torch.split(x_nchw, 1)
        logits, executed = zip(*(answer(x_1chw) for x_1chw in singles), strict=True)
        return torch.cat(logits), torch.cat(executed)

    return answer_all


class _RunAndFile(DynamicNet):
    """The run as the skipping path, the file as the masked one."""

    def __init__(self, run: DynamicNet, answer: Answer) -> None:
        super().__init__()
        self.run = run
        self.answer = answer
        self.largest = 0.0
        self.other_class = 0
        self._expected_nk = torch.empty(0)

    def units(self) -> Sequence[Unit]:
        return self.run.units()

    def execute(self, x_nchw: Tensor) -> Output:
        output = self.run.execute(x_nchw)
        self._expected_nk = output.logits
        return output

    def forward(self, x_nchw: Tensor) -> Output:
        logits_nk, executed_nu = self.answer(x_nchw)
        difference = (logits_nk - self._expected_nk).abs().max().item()
        self.largest = max(self.largest, difference)
        other_n = logits_nk.argmax(dim=1) != self._expected_nk.argmax(dim=1)
        self.other_class += int(other_n.sum())
        return Output(logits_nk, executed_nu, {})
