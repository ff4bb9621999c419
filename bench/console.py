"""The terminal: consoles that write out whatever would move the cursor or hide a letter.

Names and reasons come from records, plugins and files of others. They must be kept
from being read as markup; that no control character gets through is seen to here, for everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

from bench.plain_text import plain


def output_console() -> Console:
    """Return the console for tables and answers."""
    return _guarded(Console())


def error_console() -> Console:
    """Return the console for progress, notes and errors."""
    return _guarded(Console(stderr=True))


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
        yield from map(_guarded_segment, self._segments(console, options))

    def _segments(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        return console.render(self._inner, options)


def _guarded_segment(segment: Segment) -> Segment:
    if segment.control:  # rich's own: clearing a line, moving the cursor
        return segment
    return Segment(plain(segment.text), segment.style)
