"""Long tables for a terminal, as plain aligned columns.

Rich measures and wraps every cell by itself: thousands of lines take it many seconds. Owns the
aligning; what is in the cells is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group as Lines
    from rich.text import Text

LONG = 400
"""A table of more lines than this is written as plain columns."""


def long_table(
    title: str, heads: Sequence[str], lines: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)
) -> Lines:
    """Return the title and, below it, `plain_columns`."""
    from rich.console import Group as Lines
    from rich.text import Text

    return Lines(Text(title, "bold"), plain_columns(heads, lines, left=left), Text())


def places_that_fit(
    heads: Sequence[str],
    lines: Sequence[Sequence[str]],
    *,
    width: int,
    order: Sequence[int],
    longest_name: int,
) -> list[int]:
    """Return the places of the columns for which a terminal has room, the first always among them.

    `order` names the places of the others, the most important first; names fold at `longest_name`.
    """
    room = width - 2 - min(longest_name, max(_width(line[0]) for line in (heads, *lines)))
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
