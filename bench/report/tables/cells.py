"""A table of text cells under titles, and the same for a terminal, as Markdown, LaTeX and CSV.

Owns these formats and how a number is written; a page's is macros.html. Rich, which measures and
wraps every cell by itself, would take many seconds for thousands of lines.
"""

from __future__ import annotations

import csv
import html
import io
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from bench.plain_text import one_line

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_NUMBER = re.compile(r"[+-]?\d[\d,.]*%?")
_LATEX = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        **{"\\": r"\textbackslash ", "~": r"\textasciitilde ", "^": r"\textasciicircum "},
        **{"±": r"$\pm$", "≈": r"$\approx$", "▲": r"$\uparrow$", "▼": r"$\downarrow$"},
        **{"†": r"\dag", "<": r"\textless ", ">": r"\textgreater "},
    }
)


@dataclass(frozen=True, slots=True)
class ReportTable:
    """Lines of text cells, all with the same titles; `name` is the stem of its files, `notes` what
    must stand below."""

    name: str
    caption: str
    titles: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns begin with numbers, wherever they hold anything, and go to the right."""
        columns = zip(*self.lines, strict=True) if self.lines else ((),) * len(self.titles)
        starts = ({cell[0] for cell in cells if cell} for cells in columns)
        return tuple(bool(found) and found <= set("0123456789+-[") for found in starts)


def table_of(
    name: str,
    caption: str,
    lines: Sequence[Mapping[str, str]],
    *,
    titles: Sequence[str] = (),
    notes: Iterable[str] = (),
) -> ReportTable:
    """Return the table of `lines`, which have their titles in the same order; cells are tamed.
    `titles` are those of a table without lines, empty notes are none."""
    cells = tuple(tuple(one_line(text) for text in line.values()) for line in lines)
    heads = tuple(lines[0]) if lines else tuple(titles)
    return ReportTable(name, caption, heads, cells, tuple(filter(None, notes)))


def number(value: float | None, form: str = ".2f", *, scale: float = 1.0, none: str = "") -> str:
    """Return `scale` times a value as text, or `none` where there is none."""
    return none if value is None else format(value * scale, form)


def percent_with_sd(mean: float, sd: float | None) -> str:
    """Return an accuracy in percent, with the sample standard deviation over seeds if known."""
    return f"{100 * mean:.2f}" + ("" if sd is None else f" ±{100 * sd:.2f}")


def markdown(table: ReportTable) -> str:
    """Return the table as Markdown, below its caption and above its notes."""
    notes = "".join(f"- {markdown_text(note)}\n" for note in table.notes)
    return f"{markdown_text(table.caption)}\n\n{markdown_lines(table)}" + (notes and f"\n{notes}")


def markdown_lines(table: ReportTable) -> str:
    """Return the lines of the table alone as Markdown."""
    lines = [map(markdown_text, line) for line in (table.titles, *table.lines)]
    lines.insert(1, map(str, ["---"] * len(table.titles)))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown_text(text: str) -> str:
    """Return `text` so that Markdown shows it: no cell border, no HTML, no link, no image."""
    plain = html.escape(text.replace("\n", " "), quote=False)
    return re.sub(r"([\\|`\[\]])", r"\\\1", plain)


def latex(table: ReportTable) -> str:
    """Return the table as LaTeX for the package booktabs."""
    head, *body = (" & ".join(map(_latex_text, line)) for line in (table.titles, *table.lines))
    columns = "".join("r" if right else "l" for right in table.numeric)
    lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", f"{head} \\\\", "\\midrule"]
    lines += [f"{line} \\\\" for line in body]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _latex_text(text: str) -> str:
    return text.replace("\n", " ").translate(_LATEX)


def csv_text(table: ReportTable) -> str:
    """Return the table as CSV; no cell is a formula."""
    titles = [title.replace("\n", " ") for title in table.titles]
    cells = ([c if _NUMBER.fullmatch(c) else no_formula(c) for c in line] for line in table.lines)
    return csv_lines([titles, *cells])


def csv_lines(lines: Iterable[Sequence[Any]]) -> str:
    """Return lines of cells as CSV."""
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(lines)
    return written.getvalue()


def no_formula(cell: Any) -> Any:
    """Return a cell that no spreadsheet calculates: what looks like a formula is made a text."""
    starts = isinstance(cell, str) and cell.startswith(("=", "+", "-", "@"))
    return f"'{cell}" if starts else cell


LONGEST_NAME = len("static_projection")
"""A longer name in the first column folds where a terminal is narrow."""


def fitting(table: ReportTable, *, width: int) -> tuple[ReportTable, list[str]]:
    """Return the table with as many of its first columns as a terminal has room for, and the titles
    left out."""
    first, *others = _widths(table)
    taken = accumulate((2 + other for other in others), initial=2 + min(LONGEST_NAME, first))
    kept = max(1, sum(so_far <= width for so_far in taken))
    titles, *lines = (line[:kept] for line in (table.titles, *table.lines))
    left_out = [title.replace("\n", " ") for title in table.titles[kept:]]
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
