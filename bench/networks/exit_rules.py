"""Who leaves at an exit, and with which answer: rules on the logits of its classifier.

A rule has several operating points at once. What it compares with is kept in buffers, so that it
travels in the state dict. Until they are calibrated, no image leaves. Owns no network and no
calibration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.networks.unit import Unit


def largest_probability(logits_nk: Tensor) -> Tensor:
    """Return the largest probability of each softmax, (N,) float64."""
    # In float32 many images of a trained network would tie at exactly 1.
    return logits_nk.double().softmax(dim=1).amax(dim=1)


def entropy_nats(logits_nk: Tensor) -> Tensor:
    """Return the entropy -sum p log p of each softmax, natural logarithm, (N,) float64."""
    log_nk = logits_nk.double().log_softmax(dim=1)
    return -(log_nk.exp() * log_nk).sum(dim=1)


Carried = tuple[Tensor, ...]
"""What a rule remembers of each image from one exit to the next, (N, ...) each."""


class ExitRule(nn.Module, ABC):
    """Decides at each of E exits, for each of P operating points, who leaves.

    At every exit that an image reaches, `answer` is asked first, then `leaves`; at the trunk's own
    head, number E, `answer` alone. What a rule has to remember of an image (an answer given before,
    how often it came) `answer` returns and is handed again: a rule keeps nothing of a batch itself.
    """

    def __init__(self, num_points: int, num_exits: int) -> None:
        super().__init__()
        self.num_points = num_points
        self.num_exits = num_exits

    def answer(
        self, logits_nk: Tensor, carried: Carried, *, exit_index: int
    ) -> tuple[Tensor, Carried]:
        """Return the logits (N, K) with which an image leaves here, if it does, and what to carry.

        By default those of this exit's classifier and nothing. `carried` is () at the first exit.
        """
        return logits_nk, ()

    @abstractmethod
    def leaves(self, answer_nk: Tensor, carried: Carried, *, exit_index: int, point: int) -> Tensor:
        """Return (N,) bool: who leaves at exit `exit_index`, by what `answer` returned there."""

    def units(self, exit_index: int) -> Sequence[Unit]:
        """Return what asking the rule at one exit, or at the trunk's head, costs: by default
        nothing."""
        return ()


class ThresholdRule(ExitRule):
    """One number per image and exit, compared with `thresholds_pe` (P, E), float64."""

    thresholds_pe: Tensor

    def __init__(self, num_points: int, num_exits: int, *, never: float) -> None:
        super().__init__(num_points, num_exits)
        start_pe = torch.full((num_points, num_exits), never, dtype=torch.float64)
        self.register_buffer("thresholds_pe", start_pe)

    @abstractmethod
    def confidence(self, answer_nk: Tensor) -> Tensor:
        """Return how sure each image is of its answer, (N,) float64: the surer leave first."""

    @abstractmethod
    def set_cuts(self, cuts_pe: Tensor) -> None:
        """Let those leave whose confidence is above `cuts_pe` (P, E)."""


class EntropyBelow(ThresholdRule):
    """An image leaves if its entropy in nats is below T: at T = 0 none, at infinity all."""

    def __init__(self, num_points: int, num_exits: int) -> None:
        super().__init__(num_points, num_exits, never=0.0)

    def leaves(self, answer_nk: Tensor, _: Carried, *, exit_index: int, point: int) -> Tensor:
        return entropy_nats(answer_nk) < self.thresholds_pe[point, exit_index]

    def confidence(self, answer_nk: Tensor) -> Tensor:
        return -entropy_nats(answer_nk)

    def set_cuts(self, cuts_pe: Tensor) -> None:
        self.thresholds_pe.copy_(-cuts_pe)


class ProbabilityReaches(ThresholdRule):
    """An image leaves if its largest probability reaches T: at T = 0 all, above 1 none."""

    def __init__(self, num_points: int, num_exits: int) -> None:
        super().__init__(num_points, num_exits, never=float("inf"))

    def leaves(self, answer_nk: Tensor, _: Carried, *, exit_index: int, point: int) -> Tensor:
        return largest_probability(answer_nk) >= self.thresholds_pe[point, exit_index]

    def confidence(self, answer_nk: Tensor) -> Tensor:
        return largest_probability(answer_nk)

    def set_cuts(self, cuts_pe: Tensor) -> None:
        self.thresholds_pe.copy_(cuts_pe)
