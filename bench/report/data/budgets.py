"""Training budgets: which are equal, what a run cost, and what must stand beside a comparison.

Owns these decisions and sentences; what a run cost in all is worked out in rows.py.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bench.report.data.row import Row

TOLERANCE = 0.1
"""Training costs that differ by less than this share count as equal."""

_APART = ("train.epochs=", "train.held_out=", "train.precision=", "train.start=")


class TrainingBudget(NamedTuple):
    """What is the same for networks that may be compared: epochs in all, training, and start."""

    epochs: float
    training: tuple[str, ...]
    from_outside: bool

    @classmethod
    def of(cls, row: Row, epochs: float) -> TrainingBudget:
        """Return the budget of the run of `row`, which cost `epochs` in all."""
        asked = (s for s in row.settings if s.startswith("train.") and not s.startswith(_APART))
        # Each paper's own schedule is one way of training, whatever it is.
        training = ("published",) if row.published_epochs else tuple(asked)
        return cls(epochs, training, bool(row.outside))

    def matches(self, other: TrainingBudget) -> bool:
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

    def nearest(self, others: Sequence[TrainingBudget]) -> TrainingBudget:
        """Return the budget whose networks this one is compared with: itself if any of `others`
        matches, else that of them with the nearest start, way of training and epochs by ratio."""
        if not others or any(map(self.matches, others)):
            return self
        return min(
            others,
            key=lambda other: (
                self.from_outside != other.from_outside,
                self.training != other.training,
                abs(math.log((self.epochs + 1) / (other.epochs + 1))),
            ),
        )

    def words_beside(self, other: TrainingBudget) -> str:
        """Return it in words, as far as it is not that of `other`."""
        parts = [f"{self.epochs:g} epochs"]
        if self.training != other.training:
            parts.append("another optimizer")
        if self.from_outside != other.from_outside:
            parts.append("weights from outside" if self.from_outside else "from scratch")
        return ", ".join(parts)


def budgets_differ(costs: Sequence[float | None]) -> bool:
    """Whether training costs (in dense epochs, None where unknown) are not comparable."""
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return len(costs) > 1
    return bool(known) and max(known) > min(known) * (1 + TOLERANCE)


def spent(row: Row) -> str:
    """Return the training cost in dense epochs, that of starts and sources included."""
    if row.known_dense_epochs is None:
        return "?"
    return spent_in_words(row.known_dense_epochs, bool(row.outside))


def spent_in_words(dense_epochs: float, more: bool) -> str:
    """Return a training cost: "+?" where there is `more` that is not known."""
    # As many digits as tell budgets of more than a tenth apart.
    digits = (
        f"{dense_epochs:.1f}".removesuffix(".0") if dense_epochs < 10 else f"{dense_epochs:.0f}"
    )
    return f"{digits}{'+?' * more}"


def footnotes(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what must stand beside a comparison of `rows`: data, budgets, guesses."""
    if synthetic := sorted({row.dataset for row in rows if row.synthetic}):
        yield f"synthetic data ({', '.join(synthetic)}): not a result about real images"
    if len({(row.family, row.point) for row in rows}) > 1 and budgets_differ(
        [row.total_dense_epochs for row in rows]
    ):
        yield f"training budgets differ, in dense epochs: {_budgets(rows)}"
    if shortened := _of_methods(rows, _shortened):
        yield f"epochs, of those of the paper: {shortened}"
    if unchecked := _of_methods(rows, lambda row: ", ".join(row.unchecked)):
        yield f"unchecked, as the method says: {unchecked}"
    if guessed := sorted({row.method for row in rows if row.reconstructed}):
        yield f"with settings that no publication states: {', '.join(guessed)}"


def _of_methods(rows: Sequence[Row], said: Callable[[Row], str]) -> str:
    """Return what is said of a row of each method, of those of which anything is."""
    found = {row.method: words for row in rows if (words := said(row))}
    return "; ".join(f"{method} {words}" for method, words in sorted(found.items()))


def _shortened(row: Row) -> str:
    own, whole = row.train_epochs or 0, row.published_epochs or 0
    return f"{own:,} of {whole:,}" if own < whole else ""


def _budgets(rows: Sequence[Row]) -> str:
    by_method: dict[str, list[str]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.known_dense_epochs or 0):
        by_method[row.method].append(spent(row))
    by_range: dict[str, list[str]] = defaultdict(list)
    for method, costs in sorted(by_method.items()):
        by_range[" to ".join(dict.fromkeys((costs[0], costs[-1])))].append(method)
    parts = [f"{cost} ({', '.join(methods)})" for cost, methods in by_range.items()]
    if any(row.total_dense_epochs is None for row in rows):
        parts.append("?: weights whose training is not known")
    return "; ".join(parts)
