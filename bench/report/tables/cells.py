"""A table of text cells under titles, and the same as Markdown, LaTeX and CSV.

Owns these formats and how a number is written; a terminal's is terminal.py, a page's macros.html.
"""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.plain_text import one_line

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
