"""The terminal: consoles that write out whatever would move the cursor or hide a letter.

Names and reasons come from records, plugins and files of others. They must be kept
from being read as markup; that no control character gets through is seen to here, for everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from bench.plain_text import plain


def stdout() -> Console:
    """Return the console for tables and answers."""
    return _guarded(Console())


def stderr() -> Console:
    """Return the console for progress, notes and errors."""
    return _guarded(Console(stderr=True))


@contextmanager
def progress(
    title: str, *columns: ProgressColumn, total: int, done: int = 0
) -> Iterator[Callable[[int], None]]:
    """Show a bar with the time left on standard error; give what advances it."""
    shown = (TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn())
    with Progress(*shown, console=Console(stderr=True)) as bars:
        task = bars.add_task(title, total=total, completed=done)
        yield lambda count: bars.advance(task, count)


def _guarded(console: Console) -> Console:
    console.push_render_hook(_Guard())
    return console


class _Guard(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Guarded(renderable) for renderable in renderables]


class _Guarded:
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._inner, options):
            # Control segments are rich's own: clearing a line, moving the cursor.
            yield segment if segment.control else Segment(plain(segment.text), segment.style)
