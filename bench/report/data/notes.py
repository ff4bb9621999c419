"""What must stand beside any comparison: data, budgets, guesses, and what a training cost.

Owns these sentences; the numbers come with groups.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from bench.report.data.budgets import budgets_differ
from bench.report.data.groups import SeedGroup
from bench.report.data.row import Row

FORWARD_ONLY = "*"


def footnotes(groups: Sequence[SeedGroup], *, guessed: str = "") -> list[str]:
    """Return the notes on `groups`; a figure, where settings have no room, says `guessed` of the
    methods with settings that were guessed."""
    alone = "counted by forward passes alone, in an older record: no common measure"
    older = any(row.forward_only for group in groups for row in group.rows)
    notes = [_synthetic(groups), _budgets(groups), f"{FORWARD_ONLY} {alone}" if older else ""]
    notes.append(_shortened(groups))
    notes += [_by_method(groups, "unchecked", "unchecked, as the method says")]
    if not guessed:
        notes.append(_by_method(groups, "reconstructed", "settings no publication states"))
    elif names := sorted({row.method for g in groups for row in g.rows if row.reconstructed}):
        notes.append(f"{guessed}: {', '.join(names)}")
    return [note for note in notes if note]


def seed_note(groups: Sequence[SeedGroup]) -> str:
    """Return what a table's ± means, and that a single seed has none."""
    several = [group for group in groups if group.seeds > 1]
    parts = ["± is the sample standard deviation over seeds"] if several else []
    if len(several) < len(groups):
        parts.append("n=1: no interval over seeds" + (" for the other rows" if several else ""))
    return "; ".join(parts)


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


def _synthetic(groups: Sequence[SeedGroup]) -> str:
    names = sorted({group.first.dataset for group in groups if group.first.synthetic})
    return f"synthetic data ({', '.join(names)}): not a result about real images" if names else ""


def _shortened(groups: Sequence[SeedGroup]) -> str:
    lengths = {
        row.method: (row.train_epochs or 0, row.published_epochs)
        for group in groups
        for row in group.rows
        if row.published_epochs and (row.train_epochs or 0) < row.published_epochs
    }
    named = [f"{method} {own:,} of {all_:,}" for method, (own, all_) in sorted(lengths.items())]
    return f"epochs, of those of the paper: {', '.join(named)}" if named else ""


def _budgets(groups: Sequence[SeedGroup]) -> str:
    costs = {group.label: group.mean_of("total_dense_epochs") for group in groups}
    unknown = any(row.total_dense_epochs is None for group in groups for row in group.rows)
    if len(groups) == 1 or not budgets_differ([*costs.values(), *([None] if unknown else [])]):
        return ""
    by_method: dict[str, list[Row]] = defaultdict(list)
    for group in groups:
        by_method[group.first.method].extend(group.rows)
    by_range: dict[str, list[str]] = defaultdict(list)
    for method, rows in sorted(by_method.items()):
        ordered = sorted(rows, key=lambda row: row.known_dense_epochs or 0)
        ends = dict.fromkeys((spent(ordered[0]), spent(ordered[-1])))
        by_range[" to ".join(ends)].append(method)
    parts = [f"{cost} ({', '.join(methods)})" for cost, methods in by_range.items()]
    start = "; ?: weights whose training is not known" if unknown else ""
    return f"training budgets differ, in dense epochs: {'; '.join(parts)}{start}"


def _by_method(groups: Sequence[SeedGroup], key: str, what: str) -> str:
    """Return what the rows list under `key`, behind the name of each method that has any."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for row in (row for group in groups for row in group.rows if getattr(row, key)):
        found[row.method].update(dict.fromkeys(getattr(row, key)))
    named = "; ".join(f"{method} ({', '.join(names)})" for method, names in sorted(found.items()))
    return f"{what}: {named}" if named else ""
