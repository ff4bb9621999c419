"""What must stand beside any comparison: data, budgets, guesses, and what a training cost.

Owns these sentences; the numbers come with groups.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from bench.report.data.budgets import budgets_differ
from bench.report.data.groups import SeedGroup
from bench.report.data.row import Row

FORWARD_ONLY = "*"


def footnotes(groups: Sequence[SeedGroup]) -> Iterator[str]:
    """Yield the notes on `groups`."""
    rows = [row for group in groups for row in group.rows]
    if synthetic := sorted({row.dataset for row in rows if row.synthetic}):
        yield f"synthetic data ({', '.join(synthetic)}): not a result about real images"
    if len(groups) > 1 and (budgets := _budgets(rows)):
        yield budgets
    if any(row.forward_only for row in rows):
        yield f"{FORWARD_ONLY} forward passes alone, in an older record: no common measure"
    if shortened := _of_methods(rows, _shortened):
        yield f"epochs, of those of the paper: {shortened}"
    if unchecked := _of_methods(rows, lambda row: ", ".join(row.unchecked)):
        yield f"unchecked, as the method says: {unchecked}"
    if guessed := sorted({row.method for row in rows if row.reconstructed}):
        yield f"with settings that no publication states: {', '.join(guessed)}"


def spent(row: Row) -> str:
    """Return the training cost in dense epochs, that of starts and sources included."""
    cost = row.known_dense_epochs
    if cost is None:
        return "?"
    return spent_in_words(cost, FORWARD_ONLY if row.forward_only else "", row.outside or "")


def spent_in_words(dense_epochs: float, mark: str, outside: str) -> str:
    """Return a training cost: "+?" where a part is not known, because it began `outside`, and a
    mark where an older record counts forward passes alone."""
    # As many digits as tell budgets of more than a tenth apart.
    digits = (
        f"{dense_epochs:.1f}".removesuffix(".0") if dense_epochs < 10 else f"{dense_epochs:.0f}"
    )
    return f"{digits}{'+?' if outside else ''}{mark if dense_epochs else ''}"


def _of_methods(rows: Sequence[Row], said: Callable[[Row], str]) -> str:
    """Return what is said of a row of each method, of those of which anything is."""
    found = {row.method: words for row in rows if (words := said(row))}
    return "; ".join(f"{method} {words}" for method, words in sorted(found.items()))


def _shortened(row: Row) -> str:
    own, whole = row.train_epochs or 0, row.published_epochs or 0
    return f"{own:,} of {whole:,}" if own < whole else ""


def _budgets(rows: Sequence[Row]) -> str:
    if not budgets_differ([row.total_dense_epochs for row in rows]):
        return ""
    by_method: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.known_dense_epochs or 0):
        by_method[row.method].append(row)
    by_range: dict[str, list[str]] = defaultdict(list)
    for method, own in sorted(by_method.items()):
        by_range[" to ".join(dict.fromkeys((spent(own[0]), spent(own[-1]))))].append(method)
    parts = [f"{cost} ({', '.join(methods)})" for cost, methods in by_range.items()]
    unknown = any(row.total_dense_epochs is None for row in rows)
    start = "; ?: weights whose training is not known" if unknown else ""
    return f"training budgets differ, in dense epochs: {'; '.join(parts)}{start}"
