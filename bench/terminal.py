"""What a person sees while a command works: progress with the time left, notes, errors.

Owns no numbers. Everything here goes to standard error, so that standard output stays clean for
tables and JSON.
"""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.console import stderr
from bench.errors import BenchError
from bench.records.record import EpochRow
from bench.training.reporter import Overall, Reporter

_SHOWN = ("loss", "accuracy_train", "drop", "accuracy_held_out")


def show_error(error: BenchError, console: Console) -> None:
    """Print what went wrong and the way out."""
    console.print(f"[bold red]Error:[/] {escape(error.message)}", highlight=False, soft_wrap=True)
    if error.hint:
        console.print(escape(error.hint), highlight=False, soft_wrap=True)


class TerminalReporter(Reporter):
    """A progress bar per training phase, one line per note; use as a context manager.

    Trainings side by side have a bar each, and all runs together one below them.
    """

    def __init__(self, bars: Progress | None = None) -> None:
        """`bars`: those of another reporter, to show a bar among them."""
        self._bars = _bars() if bars is None else bars
        self._task: TaskID | None = None
        self._overall: TaskID | None = None
        self._beside: list[TerminalReporter] = []
        self._title = ""
        self._epochs = 0

    def __enter__(self) -> TerminalReporter:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

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
            rate="",
            detail=f"epoch {done + 1}/{epochs}",
        )

    def advanced(self, images: int) -> None:
        if self._task is not None:
            self._bars.update(self._task, advance=images)

    def epoch_finished(self, row: EpochRow) -> None:
        if self._task is None:
            return
        values = " ".join(f"{k} {row.values[k]:.3f}" for k in _SHOWN if k in row.values)
        self._bars.update(
            self._task,
            rate=f"{row.images_per_s:,.0f} images/s",
            detail=f"epoch {row.epoch}/{self._epochs} {values}",
        )

    def note(self, message: str) -> None:
        self._bars.console.print(f"[dim]{escape(message)}[/]", highlight=False, soft_wrap=True)

    def overall(self, state: Overall) -> None:
        if self._overall is None:
            self._overall = self._bars.add_task("all runs", rate="", detail="")
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


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=stderr(),
        refresh_per_second=4,
        # Runs side by side begin and end: the time left of all of them is an average.
        speed_estimate_period=120,
    )
