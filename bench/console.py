"""The terminal: consoles that write out whatever would move the cursor or hide a letter.

Names and reasons come from records, plugins and files of others. They must be kept
from being read as markup; that no control character gets through is seen to here, for everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment

from bench.plain_text import plain


class _Guarded(Console):
    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            # Control segments are rich's own: clearing a line, moving the cursor.
            yield segment if segment.control else Segment(plain(segment.text), segment.style)


def stdout() -> Console:
    """Return the console for tables and answers."""
    return _Guarded()


def stderr() -> Console:
    """Return the console for progress, notes and errors."""
    return _Guarded(stderr=True)


def bars() -> Progress:
    """Return bars on standard error, each with how much is done, times and a `detail`."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        console=stderr(),
        refresh_per_second=4,
        # What goes on side by side begins and ends: the time left of all of it is an average.
        speed_estimate_period=600,
    )


@contextmanager
def progress(title: str, *, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar while the body runs; give what counts one more as done."""
    with bars() as shown:
        task = shown.add_task(title, total=total, detail="")
        yield lambda: shown.advance(task)
