"""Whether a file computes what its run computes: asked before it is written.

Stricter than the equality proof of the run's own paths: no image is excused.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bench.errors import EquivalenceError
from bench.measure.modes import evaluating
from bench.networks.unit import DynamicNet
from bench.runtimes.contract import Run

Answer = Run
"""From images (N, C, H, W) to logits (N, K) and the trace (N, U)."""

ATOL = 1e-4
_BATCH = 100  # so that the last of 256 is another one: 100, 100, 56
_SINGLES = 8


@dataclass(frozen=True, slots=True)
class Agreement:
    """On how many images, and how closely."""

    images: int
    largest_difference: float


def compare(run: DynamicNet, answer: Answer, x_nchw: Tensor) -> Agreement:
    """Compare a file with the skipping path of its run: in batches, and some images alone.

    Raises:
        EquivalenceError: logits differ, another class is chosen, or other units ran.
        NotExecutable: the run has no skipping path.
    """
    portions = [*x_nchw.split(_BATCH), *x_nchw[:_SINGLES].split(1)]  # type: ignore[no-untyped-call]
    with evaluating(run):
        largest = max(_difference(run, answer, portion) for portion in portions)
    return Agreement(len(x_nchw), largest)


def _difference(run: DynamicNet, answer: Answer, x_nchw: Tensor) -> float:
    expected = run.execute(x_nchw)
    logits_nk, executed_nu = answer(x_nchw)
    if logits_nk.shape != expected.logits.shape or executed_nu.shape != expected.executed.shape:
        raise EquivalenceError("The file would answer in another shape than the run.")
    other_n = (executed_nu != expected.executed).any(dim=1)
    if other_n.any():
        raise EquivalenceError(
            f"The file would run other units than the run for {int(other_n.sum())} of"
            f" {len(x_nchw)} images."
        )
    difference = (logits_nk - expected.logits).abs().max().item()
    if not difference <= ATOL:  # so that NaN fails too
        raise EquivalenceError(
            f"The logits of the file would differ from the run's by {difference:.1e};"
            f" allowed is {ATOL:.0e}."
        )
    other_n = logits_nk.argmax(dim=1) != expected.logits.argmax(dim=1)
    if other_n.any():
        raise EquivalenceError(
            f"The file would choose another class for {int(other_n.sum())} of {len(x_nchw)} images."
        )
    return difference
