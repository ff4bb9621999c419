"""What `bench method check` and `bench backbone check` share: the bar, the table, the status.

Owns no check.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from bench.commands.frame import stderr, stdout

if TYPE_CHECKING:
    from bench.testing import Check, Outcome


def attempted(checks: Sequence[Check], title: str) -> list[Outcome]:
    """Run checks of one method or backbone, show what came of them, and return it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from bench.report.tables.conformance import outcome_table

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
