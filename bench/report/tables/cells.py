"""A table of text cells under titles, and the same as Markdown, LaTeX and CSV.

Owns these formats and how a number is written; a terminal's is terminal.py, a page's macros.html.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.plain_text import one_line

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class ReportTable:
    """Lines of text cells, all with the same titles; `name` is the stem of its files."""

    name: str
    caption: str
    titles: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold numbers, wherever they hold anything."""
        columns = zip(*self.lines, strict=True) if self.lines else ((),) * len(self.titles)
        return tuple(any(cells) and all(map(_is_number, filter(None, cells))) for cells in columns)


def table_of(
    name: str, caption: str, lines: Sequence[Mapping[str, str]], *, titles: Sequence[str] = ()
) -> ReportTable:
    """Return the table of `lines`, which have their titles in the same order; cells are tamed.
    `titles` are those of a table without lines."""
    cells = tuple(tuple(one_line(text) for text in line.values()) for line in lines)
    return ReportTable(name, caption, tuple(lines[0]) if lines else tuple(titles), cells)


def number(value: float | None, form: str = ".2f", *, scale: float = 1.0, none: str = "") -> str:
    """Return `scale` times a value as text, or `none` where there is none."""
    return none if value is None else format(value * scale, form)


def percent_with_sd(mean: float, sd: float | None, *, between: str = " ± ") -> str:
    """Return an accuracy in percent, with the sample standard deviation over seeds if known."""
    return f"{100 * mean:.2f}" + ("" if sd is None else f"{between}{100 * sd:.2f}")


def markdown(table: ReportTable) -> str:
    """Return the table as Markdown under its caption."""
    return f"{markdown_text(table.caption)}\n\n{bare_markdown(table)}"


def bare_markdown(table: ReportTable) -> str:
    """Return the table as Markdown."""
    lines = [map(markdown_text, line) for line in (table.titles, *table.lines)]
    lines.insert(1, map(str, ["---"] * len(table.titles)))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown_text(text: str) -> str:
    """Return `text` so that Markdown shows it: no cell border, no HTML, no link, no image."""
    return re.sub(r"([\\|`\[\]])", r"\\\1", html.escape(text, quote=False))


def latex(table: ReportTable) -> str:
    """Return the table as LaTeX for the package booktabs."""
    # The Styler escapes cells and not column names.
    frame = _frame(table).rename(columns=lambda title: re.sub(r"([%#&_])", r"\\\1", title))
    return str(frame.style.hide(axis="index").format(escape="latex").to_latex(hrules=True))


def csv_text(table: ReportTable) -> str:
    """Return the table as CSV; no cell is a formula."""
    plain = _frame(table).map(lambda text: text if _is_number(text) else no_formula(text))
    return str(plain.to_csv(index=False, lineterminator="\n"))


def _frame(table: ReportTable) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(table.lines), columns=list(table.titles), dtype="str")


def no_formula(value: Any) -> Any:
    """Return a cell that no spreadsheet calculates: what looks like a formula is made a text."""
    starts = isinstance(value, str) and value.startswith(("=", "+", "-", "@"))
    return f"'{value}" if starts else value


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").removesuffix("%").removesuffix("x"))
    except ValueError:
        return False
    return True
