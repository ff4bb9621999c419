"""Long tables for a terminal, as plain aligned columns.

Rich measures and wraps every cell by itself: thousands of lines take it many seconds. Owns the
aligning; what is in the cells is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group as Lines
    from rich.table import Table
    from rich.text import Text

LONG = 400
"""A table of more lines than this is written as plain columns."""

LONGEST_NAME = len("static_projection")
"""A longer name folds where a terminal is narrow."""


def long_table(
    title: str, heads: Sequence[str], lines: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)
) -> Lines:
    """Return the title and, below it, `plain_columns`."""
    from rich.console import Group as Lines
    from rich.text import Text

    return Lines(Text(title, "bold"), plain_columns(heads, lines, left=left), Text())


def plain_table(title: str = "") -> Table:
    """Return an empty table in the style of all tables here; a title is no markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    return Table(
        title=Text(title) if title else None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def boxed(title: str, heads: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """Return a table whose first column, of names, may fold; all others are numbers."""
    from rich.text import Text

    table = plain_table(title)
    longest = min(LONGEST_NAME, max(len(line[0]) for line in lines))
    table.add_column(heads[0], overflow="fold", min_width=longest)
    for head in heads[1:]:
        table.add_column(head, justify="right", no_wrap=True)
    for line in lines:
        # Text, so that a name in square brackets is not taken for markup.
        table.add_row(*map(Text, line))
    return table


def places_that_fit(
    heads: Sequence[str],
    lines: Sequence[Sequence[str]],
    *,
    width: int,
    order: Sequence[int],
) -> list[int]:
    """Return the places of the columns for which a terminal has room, the first always among them.

    `order` names the places of the others, the most important first; names fold at LONGEST_NAME.
    """
    room = width - 2 - min(LONGEST_NAME, max(_width(line[0]) for line in (heads, *lines)))
    chosen = [0]
    for place in order:
        cells = [*heads[place].split("\n"), *(line[place] for line in lines)]
        room -= 2 + max(map(_width, cells))
        if room < 0:
            break
        chosen.append(place)
    return sorted(chosen)


def plain_columns(
    heads: Sequence[str], lines: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)
) -> Text:
    """Return `lines` under `heads`, one row each, nothing cut; a narrow terminal wraps them.

    The columns at the places in `left` are aligned to the left, all others to the right.
    """
    from rich.text import Text

    # Everything on one line: a reason may hold line breaks, a head is broken to be narrow.
    cells = [[" ".join(cell.split()) for cell in line] for line in (heads, *lines)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    head, *rest = (_aligned(line, widths, left) for line in cells)
    text = Text(overflow="fold")
    text.append(head, "bold")
    return text.append("\n" + "\n".join(rest))


def _aligned(line: Sequence[str], widths: Sequence[int], left: Sequence[int]) -> str:
    parts = []
    for place, (cell, width) in enumerate(zip(line, widths, strict=True)):
        space = " " * (width - _width(cell))
        parts.append(cell + space if place in left else space + cell)
    return "  ".join(parts).rstrip()


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
