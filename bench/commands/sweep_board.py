"""A running sweep on a terminal: a table that is redrawn, or in a log a line for each trial.

Owns no columns (sweeps.py) and no state of trials.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from bench.commands.sweep_tables import ended_line, live_table

if TYPE_CHECKING:
    from bench.sweep.ledger import Ledger, Progress

_OTHER_LINES = 8


class SweepBoard:
    """Listens to a sweep; use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ledger: Ledger | None = None
        self._begun = time.monotonic()
        self._live = Live(
            console=console, get_renderable=self._draw, refresh_per_second=2, transient=True
        )

    def __enter__(self) -> SweepBoard:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def began(self, ledger: Ledger) -> None:
        self._ledger, self._begun = ledger, time.monotonic()
        trials = "1 trial" if ledger.total == 1 else f"{ledger.total} trials"
        self.note(f"{trials}; criterion: {ledger.objective.sentence()}")

    def changed(self, progress: Progress) -> None:
        if not self._console.is_terminal and progress.state != "running":
            self._console.print(escape(ended_line(progress)), highlight=False, soft_wrap=True)

    def note(self, message: str) -> None:
        self._console.print(f"[dim]{escape(message)}[/]", highlight=False, soft_wrap=True)

    def _draw(self) -> RenderableType:
        if self._ledger is None:
            return Text("Starting ...", "dim")
        # A copy: the driver adds trials while this is drawn from another thread.
        progress: Sequence[Progress] = list(self._ledger.progress)
        return live_table(
            progress,
            total=self._ledger.total,
            elapsed_s=time.monotonic() - self._begun,
            rows=max(4, self._console.height - _OTHER_LINES),
            runtime=self._ledger.objective.runtime,
        )
