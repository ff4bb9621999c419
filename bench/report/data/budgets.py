"""Training budgets: epochs with those of the start, how a run was trained, and where it began.

Owns which budgets are equal; what a training cost stands in the rows (rows.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

from bench.report.data.row import Row

TOLERANCE = 0.1
"""Training costs that differ by less than this share count as equal."""

_APART = ("train.epochs=", "train.held_out=", "train.precision=", "train.start=")


class Comparable(NamedTuple):
    """What is the same for networks that may be compared: epochs in all, training, and start."""

    epochs: float
    training: tuple[str, ...]
    from_outside: bool

    def matches(self, other: Comparable) -> bool:
        """Whether `other` was trained as long, in the same way, from the same kind of start.

        Weights from outside that were trained no further match every budget that starts outside:
        a run that starts there has them already.
        """
        if self.from_outside != other.from_outside:
            return False
        if self.from_outside and other.epochs == 0:
            return True
        low, high = sorted((self.epochs, other.epochs))
        return high <= low * (1 + TOLERANCE) and self.training == other.training

    def distance(self, other: Comparable) -> tuple[bool, bool, float]:
        """Return how unlike `other` is: in the start, then in the way, then in epochs by ratio."""
        ratio = abs(math.log((self.epochs + 1) / (other.epochs + 1)))
        return self.from_outside != other.from_outside, self.training != other.training, ratio

    def words_beside(self, other: Comparable) -> str:
        """Return it in words, as far as it is not that of `other`."""
        parts = [f"{self.epochs:g} epochs"]
        if self.training != other.training:
            parts.append("another optimizer")
        if self.from_outside != other.from_outside:
            parts.append("weights from outside" if self.from_outside else "from scratch")
        return ", ".join(parts)


class Budgeted(Protocol):
    """Anything with a budget: a network, or its place in a figure."""

    @property
    def budget(self) -> Comparable: ...


B = TypeVar("B", bound=Budgeted)


def of_budget(budget: Comparable, others: Sequence[B]) -> list[B]:
    """Return those of `others` that were trained with this budget, or where there are none, all of
    the nearest one."""
    alike = [other for other in others if budget.matches(other.budget)]
    if alike or not others:
        return alike
    nearest = min((other.budget for other in others), key=budget.distance)
    return [other for other in others if nearest.matches(other.budget)]


def budget_of(row: Row, epochs: float) -> Comparable:
    """Return the budget of the run of `row`, which cost `epochs` in all."""
    asked = tuple(s for s in row.settings if s.startswith("train.") and not s.startswith(_APART))
    # Each paper's own schedule is one way of training, whatever it is.
    training = ("published",) if row.published_epochs else asked
    return Comparable(epochs, training, bool(row.outside))


def budgets_differ(costs: Sequence[float | None]) -> bool:
    """Whether training costs (in dense epochs, None where unknown) are not comparable."""
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return len(costs) > 1
    return bool(known) and max(known) > min(known) * (1 + TOLERANCE)
