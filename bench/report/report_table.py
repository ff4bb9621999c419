"""A table of the report: text cells under titles, and the same as Markdown, LaTeX and CSV.

Owns the three formats; what stands in the cells is the business of whoever makes the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.plain_text import one_line
from bench.report.tables import markdown_text, no_formula

Line = Mapping[str, str]


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
        return tuple(_all_numbers(cells) for cells in columns)


def table_of(name: str, caption: str, lines: Sequence[Line]) -> ReportTable:
    """Return the table of `lines`, which have their titles in the same order; cells are tamed."""
    titles = tuple(lines[0]) if lines else ()
    cells = tuple(tuple(one_line(text) for text in line.values()) for line in lines)
    return ReportTable(name, caption, titles, cells)


def markdown(table: ReportTable) -> str:
    """Return the table as Markdown under its caption."""
    rows = [table.titles, tuple("---" for _ in table.titles), *table.lines]
    rule = 1
    text = [
        f"| {' | '.join(row if n == rule else map(markdown_text, row))} |"
        for n, row in enumerate(rows)
    ]
    return "\n".join([markdown_text(table.caption), "", *text]) + "\n"


def latex(table: ReportTable) -> str:
    """Return the table as LaTeX for the package booktabs."""
    import pandas as pd

    frame = pd.DataFrame(list(table.lines), columns=list(table.titles), dtype="str")
    # The Styler escapes cells and not column names.
    for sign in ("%", "#", "&", "_"):
        frame.columns = frame.columns.str.replace(sign, f"\\{sign}", regex=False)
    styled = frame.style.hide(axis="index").format(escape="latex")
    return str(styled.to_latex(hrules=True))


def csv_text(table: ReportTable) -> str:
    """Return the table as CSV; no cell is a formula."""
    import pandas as pd

    frame = pd.DataFrame(list(table.lines), columns=list(table.titles), dtype="str")
    return str(frame.map(_plain_cell).to_csv(index=False, lineterminator="\n"))


def _plain_cell(text: str) -> str:
    return text if _is_number(text) else str(no_formula(text))


def _all_numbers(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if cell]
    return bool(filled) and all(_is_number(cell) for cell in filled)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").removesuffix(" %").removesuffix("x"))
    except ValueError:
        return False
    return True
