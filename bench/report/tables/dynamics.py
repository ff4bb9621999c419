"""Is it dynamic? The table that says, of each method with gates, whether they follow the image.

Owns the columns and their explanation; the numbers come with the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.report.data.groups import Group
from bench.report.tables.columns import LONG, boxed, long_table, places_that_fit

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_TITLE = "Is it dynamic?"
_HEADS = ("method", "dropped", "masks", "cost ±", "shuffled", "difficulty", "never run")
_ROOM_FOR_LAST = 90
_EXPLAINED = (
    "dropped: mean share of gated blocks that an image does not run; "
    "cost ±: spread of nFLOPs over images; "
    "shuffled: change in accuracy, in points, when every image follows another image's "
    "decisions, same cost; "
    "difficulty: rank correlation of an image's MACs with the dense network's loss on it"
)


def dynamics_parts(groups: Sequence[Group], *, width: int) -> list[RenderableType]:
    """Return the table of the groups that have gates, and what its columns mean; maybe nothing.

    A narrow terminal gets the columns for which it has room.
    """
    from rich.text import Text

    gated = [group for group in groups if any(row.gated_blocks for row in group.rows)]
    if not gated:
        return []
    lines = [_cells(group) for group in gated]
    table = long_table(_TITLE, _HEADS, lines) if len(lines) > LONG else _table(lines, width)
    return [table, Text(f"  {_EXPLAINED}", style="dim")]


def _table(lines: Sequence[Sequence[str]], width: int) -> Table:
    whole = [line[:-1] for line in lines]  # the last column folds
    places = places_that_fit(_HEADS[:-1], whole, width=width, order=range(1, len(_HEADS) - 1))
    if width >= _ROOM_FOR_LAST:
        places.append(len(_HEADS) - 1)
    heads, cells = ([[line[p] for p in places] for line in part] for part in ([_HEADS], lines))
    table = boxed(_TITLE, heads[0], cells)
    table.columns[0].max_width = 30
    if width >= _ROOM_FOR_LAST:
        last = table.columns[-1]
        last.justify, last.no_wrap, last.overflow, last.max_width = "left", False, "fold", 24
    return table


def _cells(group: Group) -> list[str]:
    loss = group.mean_of("shuffled_loss")
    dead = sorted({int(b.removeprefix("block")) for r in group.rows for b in r.dead_blocks or ()})
    return [
        group.label,
        _number(group.mean_of("mean_drop"), "{:.1%}"),
        _number(group.mean_of("distinct_masks"), "{:,.0f}"),
        _number(group.mean_of("nflops_std"), "{:.3f}"),
        _number(None if loss is None else -100 * loss, "{:+.2f}"),
        _number(group.mean_of("difficulty_correlation"), "{:+.2f}"),
        ", ".join(map(str, dead)),
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
