"""What came of the checks of a method, as a table for the terminal.

Owns the words and colours of the table; runs no check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from bench.report.tables.terminal import folding_table
from bench.testing import Outcome

_STYLES = {"passed": "green", "failed": "bold red", "exempt": "yellow", "not tried": "yellow"}


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """Return one row per check: its name, what came of it, what it proves and what is wrong."""
    table = folding_table("check", "outcome", "what it proves", title=counts_in_words(outcomes))
    for column in table.columns[:2]:
        column.no_wrap = True
    for outcome in outcomes:
        status = Text(outcome.status, style=_STYLES[outcome.status])
        table.add_row(Text(outcome.check), status, _details(outcome))
    return table


def counts_in_words(outcomes: Sequence[Outcome]) -> str:
    """Return how many checks passed, failed and were exempt, after the method's name."""
    counts = Counter[str](outcome.status for outcome in outcomes)
    said = ", ".join(f"{counts[status]} {status}" for status in _STYLES if counts[status])
    return f"{outcomes[0].method}: {said}" if outcomes else "nothing checked"


def _details(outcome: Outcome) -> Text:
    text = Text(outcome.proves)
    if outcome.status in ("exempt", "not tried"):
        text.append(f"\n{outcome.status.capitalize()}: {outcome.detail}", style="yellow")
    elif outcome.detail:
        text.append(f"\n{outcome.detail}", style="red")
    if outcome.cause:
        text.append(f"\nLikely cause: {outcome.cause}", style="red")
    return text
