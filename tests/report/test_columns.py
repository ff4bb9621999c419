"""Long tables: aligned by what a terminal shows, with everything in them."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from bench.records.record import RunRecord
from bench.report.data.rows import rows
from bench.report.tables.columns import plain_columns
from bench.report.tables.terminal import rich_table


def test_columns_are_aligned_and_nothing_is_cut_or_taken_for_markup() -> None:
    lines = [["[red]a", "1", "x"], ["網", "1.25", "two\nlines"]]
    text = plain_columns(("method", "w/o\npol.", "why"), lines, left=(0, 2)).plain
    assert text.split("\n") == [
        "method  w/o pol.  why",
        "[red]a         1  x",
        "網          1.25  two lines",
    ]
    console = Console(file=StringIO(), width=10)
    console.print(plain_columns(("method",), [["a" * 30]]))
    assert console.file.getvalue().count("a") == 30  # type: ignore[attr-defined]


def test_a_long_table_holds_the_same_cells(
    comparison: list[RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    def printed() -> list[str]:
        console = Console(file=StringIO(), width=120)
        console.print(rich_table(rows(comparison), width=120))
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        cells = [" ".join(line.split()) for line in lines]
        return [line for line in cells if any(map(str.isalnum, line))]

    boxed = printed()
    monkeypatch.setattr("bench.report.tables.terminal.LONG", 0)
    monkeypatch.setattr("bench.report.tables.dynamics.LONG", 0)
    long = printed()
    assert [line for line in boxed if line.startswith(("resnet", "sgad", "blockdrop"))] == [
        line for line in long if line.startswith(("resnet", "sgad", "blockdrop"))
    ]
