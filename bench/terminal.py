"""What a person sees while a command trains: progress with the time left, and notes.

Owns no numbers. Everything here goes to standard error, so that standard output stays clean for
tables and JSON.
"""

from __future__ import annotations

from typing import Self

from rich.markup import escape
from rich.progress import Progress, TaskID

from bench.console import bars
from bench.records.record import EpochRow
from bench.training.reporter import Overall, Reporter

_SHOWN = ("loss", "accuracy_train", "drop", "accuracy_held_out")


class Board:
    """Bars with notes above them; use as a context manager."""

    def __init__(self, shown: Progress | None = None) -> None:
        """`shown`: the bars of another board, to show some among them."""
        self._bars = shown or bars()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def note(self, message: str) -> None:
        self._bars.console.print(f"[dim]{escape(message)}[/]", highlight=False, soft_wrap=True)


class TerminalReporter(Board, Reporter):
    """A bar per training phase; trainings side by side have a bar each, and all runs together one
    below them."""

    def __init__(self, shown: Progress | None = None) -> None:
        super().__init__(shown)
        self._task: TaskID | None = None
        self._overall: TaskID | None = None
        self._beside: list[TerminalReporter] = []
        self._title = ""
        self._epochs = 0

    def run_started(self, run: str) -> None:
        """The next phases belong to `run`."""
        self._title = run

    def phase_started(self, name: str, *, epochs: int, done: int, images_per_epoch: int) -> None:
        self._remove()
        self._epochs = epochs
        self._task = self._bars.add_task(
            f"{self._title} · {name}",
            total=epochs * images_per_epoch,
            completed=done * images_per_epoch,
            detail=f"epoch {done + 1}/{epochs}",
        )

    def advanced(self, images: int) -> None:
        if self._task is not None:
            self._bars.update(self._task, advance=images)

    def epoch_finished(self, row: EpochRow) -> None:
        if self._task is not None:
            values = " ".join(f"{k} {row.values[k]:.3f}" for k in _SHOWN if k in row.values)
            detail = f"{row.images_per_s:,.0f} images/s epoch {row.epoch}/{self._epochs} {values}"
            self._bars.update(self._task, detail=detail)

    def overall(self, state: Overall) -> None:
        if self._overall is None:
            self._overall = self._bars.add_task("all runs", detail="")
        said = f"{state.done} of {state.runs} runs done"
        self._bars.update(self._overall, total=state.of_images, completed=state.images, detail=said)
        if state.done == state.runs:
            self._bars.remove_task(self._overall)
            self._overall = None
            for reporter in self._beside:
                reporter._remove()

    def beside(self) -> Reporter:
        reporter = TerminalReporter(self._bars)
        self._beside.append(reporter)
        return reporter

    def _remove(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
