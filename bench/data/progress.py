"""Progress bars with the time left, on standard error; owns no work and no numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

Advance = Callable[[int], None]


@contextmanager
def byte_progress(title: str, *, total_bytes: int, done_bytes: int) -> Iterator[Advance]:
    """Show a transfer of `total_bytes`, of which `done_bytes` were there before."""
    columns = (DownloadColumn(), TransferSpeedColumn())
    with _progress(title, columns, total=total_bytes, done=done_bytes) as advance:
        yield advance


@contextmanager
def item_progress(title: str, *, total: int) -> Iterator[Advance]:
    """Show work on `total` items."""
    with _progress(title, (MofNCompleteColumn(),), total=total, done=0) as advance:
        yield advance


@contextmanager
def _progress(
    title: str, columns: tuple[ProgressColumn, ...], *, total: int, done: int
) -> Iterator[Advance]:
    # Standard error, so that tables and JSON on standard output stay clean.
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with progress:
        task = progress.add_task(title, total=total, completed=done)
        yield lambda count: progress.advance(task, count)
