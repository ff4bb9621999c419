"""Tables on a terminal: plain aligned columns, as many as it has room for.

Rich measures and wraps every cell by itself, which takes many seconds for thousands of lines. Owns
the aligning; what is in the cells is the caller's. Loads rich only when a table is made.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.report.tables.cells import ReportTable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

LONGEST_NAME = len("static_projection")
"""A longer name in the first column folds where a terminal is narrow."""


def fitting(
    table: ReportTable, *, width: int, order: Sequence[str]
) -> tuple[ReportTable, list[str]]:
    """Return the table with the columns that a terminal has room for, and the titles left out.

    The first column stays; `order` names the others, the most important first.
    """
    widths = dict(zip(table.titles, _widths(table), strict=True))
    kept, room = {table.titles[0]}, width - 2 - min(LONGEST_NAME, widths[table.titles[0]])
    for title in (title for title in order if title in widths):
        room -= 2 + widths[title]
        if room < 0:
            break
        kept.add(title)
    places = [place for place, title in enumerate(table.titles) if title in kept]
    titles, *lines = (tuple(one[p] for p in places) for one in (table.titles, *table.lines))
    left_out = [title.replace("\n", " ") for title in table.titles if title not in kept]
    return replace(table, titles=titles, lines=tuple(lines)), left_out


def aligned(table: ReportTable, *, width: int | None = None) -> Text:
    """Return the table under its caption, with its notes. Nothing is cut: names fold where a
    `width` is given, and what is wider than the terminal is wrapped by it."""
    from rich.text import Text

    widths, right = _widths(table), table.numeric
    whole = sum(widths) + 2 * len(widths) - 1
    if width is not None and whole > width:
        widths[0] = min(widths[0], max(LONGEST_NAME, widths[0] - (whole - width)))
    heads = [title.split("\n") for title in table.titles]
    deep = max(map(len, heads))
    above = list(zip(*([""] * (deep - len(head)) + head for head in heads), strict=True))
    text = Text(overflow="fold")
    for line in (table.caption, *(_aligned(line, widths, right) for line in above)):
        text.append(f"{line}\n" if line else "", "bold")
    text.append(f"{'─' * min(whole, width or whole)}\n", "dim")
    for name, *cells in table.lines:
        first, *folded = textwrap.wrap(name, widths[0], break_on_hyphens=False) or [""]
        text.append(f"{_aligned((first, *cells), widths, right)}\n")
        text.append("".join(f" {part}\n" for part in folded))
    text.append("".join(f"  {note}\n" for note in table.notes), "dim")
    return text


def folding_table(*titles: str, title: str = "") -> Table:
    """Return an empty table of prose, which folds in its columns; for few lines."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, title_justify="left", title_style="bold")
    table.title = Text(title) if title else None
    for head in titles:
        table.add_column(head, overflow="fold")
    return table


def _widths(table: ReportTable) -> list[int]:
    from rich.cells import cell_len

    columns = zip(table.titles, *table.lines, strict=True)
    return [max(map(cell_len, [*title.split("\n"), *cells])) for title, *cells in columns]


def _aligned(line: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    from rich.cells import cell_len

    parts = []
    for cell, width, to_right in zip(line, widths, right, strict=True):
        space = " " * (width - cell_len(cell))
        parts.append(space + cell if to_right else cell + space)
    return f" {'  '.join(parts)}".rstrip()
