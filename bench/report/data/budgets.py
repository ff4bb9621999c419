"""What runs spent on training, and which of them spent the same.

A budget is the epochs of a run with those of what it started from, how it was asked to be trained,
and where it all began. Reads rows; owns no sentence about a comparison.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from bench.report.data.row import Row

TOLERANCE = 0.1
"""Training costs that differ by less than this share count as equal."""

_APART = ("train.epochs=", "train.held_out=", "train.precision=", "train.start=")


class Spent(NamedTuple):
    """What a run cost with its starts and sources, as far as they are known.

    `outside` says where it began if nobody knows what that cost, else nothing. `forward_only`:
    some of `dense_epochs` counts forward passes alone.
    """

    epochs: int
    dense_epochs: float
    outside: str
    forward_only: bool

    @property
    def total(self) -> float | None:
        """The whole cost in dense epochs; None where some of it is not known."""
        return None if self.outside else self.dense_epochs


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


def spent_by(rows: Iterable[Row]) -> dict[str, Spent]:
    """Return what each run cost, by its name; what it started from may be among `rows`."""
    by_run = {row.run: row for row in rows if row.train_epochs is not None}
    return {run: _spent(row, by_run) for run, row in by_run.items()}


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


def _spent(row: Row, by_run: Mapping[str, Row]) -> Spent:
    own = Spent(row.train_epochs or 0, row.train_dense_epochs or 0.0, "", bool(row.forward_only))
    before, cost = row.pretraining_epochs, row.pretraining_dense_epochs
    if before is not None and cost is not None:
        return own._replace(epochs=own.epochs + before, dense_epochs=own.dense_epochs + cost)
    start = by_run.get(row.pretraining)
    if start is None:
        return own._replace(outside=row.start_reason or row.pretraining or "unknown")
    # What the start began with is not known; what was spent here in between is.
    known = _spent(start, by_run)
    return known._replace(
        epochs=own.epochs + known.epochs,
        dense_epochs=own.dense_epochs + known.dense_epochs,
        forward_only=own.forward_only or known.forward_only,
    )
