"""What `bench method check` and `bench backbone check` share: the bar, the table, the status.

Owns no check.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from bench.commands.frame import stderr, stdout

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from bench.testing import Check, Outcome

_STYLES = {"passed": "green", "failed": "bold red", "exempt": "yellow", "not tried": "yellow"}


def attempted(checks: Sequence[Check], title: str) -> list[Outcome]:
    """Run checks of one method or backbone, show what came of them, and return it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    outcomes: list[Outcome] = []
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    with Progress(*columns, console=stderr(), transient=True) as bars:
        task = bars.add_task(title, total=len(checks))
        for item in checks:
            bars.update(task, description=f"{title} · {item.name}")
            outcomes.append(item.run())
            bars.advance(task)
    stdout().print(outcome_table(outcomes))
    return outcomes


def end_by(outcomes: Sequence[Outcome], *, debug: bool) -> None:
    """End with status 1 if a check failed; with `debug`, after the tracebacks."""
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    for error in errors if debug else ():
        text = "".join(traceback.format_exception(error))
        stderr().print(text, markup=False, highlight=False, soft_wrap=True)
    if errors:
        raise typer.Exit(1)


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """Return one row per check: its name, what came of it, what it proves and what is wrong; a
    reason that several have in full once."""
    from rich.text import Text

    from bench.report.tables.terminal import folding_table

    counts = Counter[str](outcome.status for outcome in outcomes)
    said = ", ".join(f"{counts[status]} {status}" for status in _STYLES if counts[status])
    title = f"{outcomes[0].method}: {said}" if outcomes else "nothing checked"
    table = folding_table("check", "outcome", "what it proves", title=title)
    for column in table.columns[:2]:
        column.no_wrap = True
    before = ""
    for outcome in outcomes:
        status = Text(outcome.status, style=_STYLES[outcome.status])
        table.add_row(Text(outcome.check), status, _details(outcome, before))
        before = outcome.detail or before
    return table


def _details(outcome: Outcome, before: str) -> Text:
    from rich.text import Text

    text = Text(outcome.proves)
    if outcome.status in ("exempt", "not tried"):
        reason = "as above" if outcome.detail == before else outcome.detail
        text.append(f"\n{outcome.status.capitalize()}: {reason}", style="yellow")
    elif outcome.detail:
        text.append(f"\n{outcome.detail}", style="red")
    if outcome.cause:
        text.append(f"\nLikely cause: {outcome.cause}", style="red")
    return text
