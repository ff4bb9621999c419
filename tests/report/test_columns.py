"""Tables on a terminal: aligned by what it shows, with everything in them."""

from __future__ import annotations

from bench.report.tables.cells import ReportTable, aligned, fitting

NAME = "static_projection of sgad"
TABLE = ReportTable(
    "odd",
    "[b]title",
    ("method", "w/o\npol.", "why"),
    (("[red]a", "1", "x"), ("網", "1.25", "two"), (NAME, "0.5", "")),
)


def test_columns_are_aligned_and_nothing_is_cut_or_taken_for_markup() -> None:
    assert aligned(TABLE).plain.splitlines() == [
        "[b]title",
        " " * 29 + "w/o",
        " method                     pol.  why",
        "─" * 37,
        " [red]a                        1  x",
        " 網                         1.25  two",
        f" {NAME}   0.5",
    ]


def test_a_narrow_terminal_folds_names_and_drops_the_last_columns() -> None:
    shown, left_out = fitting(TABLE, width=27)
    assert shown.titles == ("method", "w/o\npol.") and left_out == ["why"]
    lines = aligned(shown, width=27).plain.splitlines()
    assert lines[-2:] == [" static_projection of   0.5", " sgad"] and max(map(len, lines)) <= 27
