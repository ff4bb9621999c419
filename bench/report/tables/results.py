"""The results as a document has them, one line per run and operating point: Markdown, LaTeX, CSV.

Owns columns and number formats of these; JSON, CSV and data frames hold every key of row.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from bench.errors import UnknownNameError
from bench.report.data.groups import group_seeds
from bench.report.data.row import BATCH_SIZES, EXTRAS, KEYS, Row, flat, runtimes_of
from bench.report.figures.style import DAGGER
from bench.report.tables.cells import ReportTable, bare_markdown, latex, no_formula, table_of

if TYPE_CHECKING:
    import pandas as pd

Format = Literal["csv", "json", "md", "latex"]
FORMATS: tuple[str, ...] = get_args(Format)

_WHOLE_NUMBERS = (
    *("seed", "params", "params_inference", "train_epochs", "distinct_masks", "correct"),
    *("dense_macs", "test_images", "gated_blocks"),
)


def to_dataframe(all_rows: Sequence[Row]) -> pd.DataFrame:
    """Return the rows as a table with all keys as columns, also when there are no rows."""
    import pandas as pd

    table = pd.DataFrame(list(map(flat, all_rows)), columns=[*KEYS, *EXTRAS])
    # Int64 has room for "not measured"; int64 would turn whole columns into floats.
    return table.astype(dict.fromkeys(_WHOLE_NUMBERS, "Int64"))


def render(all_rows: Sequence[Row], format: str) -> str:
    """Return the rows as text in one of FORMATS; CSV and JSON hold every key in full precision.

    Raises:
        UnknownNameError: there is no such format.
    """
    if format == "json":
        found = list(map(flat, all_rows))
        return json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    if format == "csv":
        return _csv(all_rows)
    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    table = results_table(all_rows)
    return bare_markdown(table) if format == "md" else latex(table)


def _csv(all_rows: Sequence[Row]) -> str:
    table = to_dataframe(all_rows)
    for key in ("reconstructed", "settings", "unchecked"):
        table[key] = [" ".join(getattr(row, key)) for row in all_rows]
    table["by_runtime"] = [json.dumps(by_runtime or {}) for by_runtime in table["by_runtime"]]
    return str(table.map(no_formula).to_csv(index=False, lineterminator="\n"))


def results_table(all_rows: Sequence[Row]) -> ReportTable:
    """Return what a reader of a document needs of each row."""
    groups = group_seeds(all_rows)
    apart = {(row.run, row.point): group.apart for group in groups for row in group.rows}
    runtimes = runtimes_of(all_rows)
    lines = [_line(row, apart.get((row.run, row.point), ""), runtimes) for row in all_rows]
    return table_of("results", "One line per run and operating point.", lines, titles=_BEFORE)


_BEFORE = ("method", "variant", "data", "backbone", "recipe", "seed", "accuracy %", "nFLOPs")


def _line(row: Row, apart: str, runtimes: Sequence[str]) -> dict[str, str]:
    values: tuple[object, ...] = (
        *(row.method, " ".join(part for part in (row.variant, apart) if part)),
        *(row.dataset, row.backbone, row.recipe, row.seed),
        *(_number(row.accuracy, 2, scale=100), _number(row.nflops, 3)),
    )
    line = {title: str(value) for title, value in zip(_BEFORE, values, strict=True)}
    line["nFLOPs without policy"] = _number(row.nflops_backbone, 3)
    line["MMACs"] = _number(row.macs, 2, scale=1e-6)
    for runtime in runtimes:
        line[f"ms {runtime}, batch 1"] = _time(row, runtime)
        for size in BATCH_SIZES:
            line[f"speed-up {runtime}, batch {size}"] = _speed(row, runtime, size)
    line["training, dense epochs"] = _number(row.total_dense_epochs, 1)
    failed = " ".join(f"{row.status}: {row.reason}".split())
    line["note"] = row.budget_note if row.measured else failed
    return line


def _time(row: Row, runtime: str) -> str:
    cell = row.timing(1, runtime)
    if cell is None or cell.latency_ms is None:
        return f"none: {row.why_untimed(1, runtime)}"
    return f"{cell.latency_ms:.2f}"


def _speed(row: Row, runtime: str, size: int) -> str:
    cell = row.timing(size, runtime)
    if cell is None or cell.speedup is None:
        return f"none: {row.why_untimed(size, runtime)}"
    low, high = cell.speedup_low, cell.speedup_high
    interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    verdict = f" {cell.verdict}" if cell.verdict else ""
    return f"{cell.speedup:.2f}{interval}{verdict}" + (DAGGER if cell.contended else "")


def _number(value: float | None, digits: int, *, scale: float = 1.0) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}"
