"""Tables on a terminal: plain aligned columns, as many as it has room for.

Rich measures and wraps every cell by itself, which takes many seconds for thousands of lines. Owns
the aligning; what is in the cells is the caller's. Loads rich only when a table is made.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
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


def aligned(table: ReportTable, *, width: int | None = None, left: Sequence[int] = (0,)) -> Text:
    """Return the table under its caption. Nothing is cut: names fold where a `width` is given, and
    what is wider than the terminal is wrapped by it.

    The columns at the places in `left` are aligned to the left, all others to the right.
    """
    from rich.text import Text

    widths = _widths(table)
    whole = 1 + sum(2 + one for one in widths) - 2
    if width is not None and whole > width:
        widths[0] = min(widths[0], max(LONGEST_NAME, widths[0] - (whole - width)))
    heads = [title.split("\n") for title in table.titles]
    deep = max(map(len, heads))
    above = list(zip(*([""] * (deep - len(head)) + head for head in heads), strict=True))
    text = Text(overflow="fold")
    for line in (table.caption, *(_aligned(line, widths, left) for line in above)):
        text.append(f"{line}\n" if line else "", "bold")
    text.append(f"{'─' * min(whole, width or whole)}\n", "dim")
    for name, *cells in table.lines:
        first, *folded = _folded(name, widths[0])
        text.append(f"{_aligned((first, *cells), widths, left)}\n")
        text.append("".join(f" {part}\n" for part in folded))
    return text


def folding_table(*titles: str, title: str = "") -> Table:
    """Return an empty table of prose, which folds in its columns; for few lines."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=None,
        pad_edge=False,
        title=Text(title) if title else None,
        title_justify="left",
        title_style="bold",
    )
    for head in titles:
        table.add_column(head, overflow="fold")
    return table


def _widths(table: ReportTable) -> list[int]:
    return [
        max(map(_width, [*title.split("\n"), *column]))
        for title, *column in zip_longest(table.titles, *table.lines, fillvalue="")
    ]


def _aligned(line: Sequence[str], widths: Sequence[int], left: Sequence[int]) -> str:
    parts = []
    for place, (cell, width) in enumerate(zip(line, widths, strict=True)):
        space = " " * (width - _width(cell))
        parts.append(cell + space if place in left else space + cell)
    return f" {'  '.join(parts)}".rstrip()


def _folded(name: str, width: int) -> list[str]:
    if _width(name) <= width:
        return [name]
    if name.isascii():
        return textwrap.wrap(name, width, break_on_hyphens=False)
    from rich.cells import chop_cells

    return chop_cells(name, width)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
