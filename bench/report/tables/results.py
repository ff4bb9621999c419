"""The results: on a terminal with seeds together, in a document with a line per run and point.

Owns their columns, marks and formats; JSON, CSV and data frames hold every key of row.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from bench.errors import UnknownNameError
from bench.report.behaviour.dynamics import DYNAMICS_ORDER, dynamics_table
from bench.report.data.groups import SeedGroup, group_seeds, without_restated
from bench.report.data.notes import footnotes, seed_note, spent
from bench.report.data.row import (
    BATCH_SIZES,
    EXTRAS,
    KEYS,
    MAIN_RUNTIME,
    NOT_APPLICABLE,
    Row,
    flat,
    runtimes_of,
)
from bench.report.figures.style import CONTENDED_NOTE, DAGGER
from bench.report.tables.cells import (
    ReportTable,
    bare_markdown,
    latex,
    no_formula,
    number,
    percent_with_sd,
    table_of,
)
from bench.report.tables.terminal import aligned, fitting

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

Format = Literal["csv", "json", "md", "latex"]
FORMATS: tuple[str, ...] = get_args(Format)

_WHOLE_NUMBERS = (
    *("seed", "params", "params_inference", "train_epochs", "distinct_masks", "correct"),
    *("dense_macs", "test_images", "gated_blocks"),
)
_SHOWN_RUNTIMES = 2  # side by side on a terminal
_MARKS = {
    **{"faster": "▲", "slower": "▼", "indistinguishable": "≈", "uncertain": "?", "baseline": "="}
}
_MARK_NOTE = (
    "▲ faster, ▼ slower, ≈ indistinguishable from the dense network (= baseline) in the same "
    "runtime, ? the interval is too wide to say; without a mark seeds disagree"
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
    values = (
        *(row.method, f"{row.variant} {apart}".strip(), row.dataset, row.backbone, row.recipe),
        *(str(row.seed), number(row.accuracy, scale=100), number(row.nflops, ".3f")),
    )
    line = dict(zip(_BEFORE, values, strict=True))
    line["nFLOPs without policy"] = number(row.nflops_backbone, ".3f")
    line["MMACs"] = number(row.macs, scale=1e-6)
    for runtime in runtimes:
        cell = row.timing(1, runtime)
        known = cell is not None and cell.latency_ms is not None
        untimed = f"none: {row.why_untimed(1, runtime)}"
        line[f"ms {runtime}, batch 1"] = number(cell.latency_ms) if cell and known else untimed
        for size in BATCH_SIZES:
            line[f"speed-up {runtime}, batch {size}"] = _speed_up(row, runtime, size)
    line["training, dense epochs"] = number(row.total_dense_epochs, ".1f")
    failed = " ".join(f"{row.status}: {row.reason}".split())
    line["note"] = row.budget_note if row.measured else failed
    return line


def _speed_up(row: Row, runtime: str, size: int) -> str:
    cell = row.timing(size, runtime)
    if cell is None or cell.speedup is None:
        return f"none: {row.why_untimed(size, runtime)}"
    low, high = cell.speedup_low, cell.speedup_high
    interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    verdict = f" {cell.verdict}" if cell.verdict else ""
    return f"{cell.speedup:.2f}{interval}{verdict}" + (DAGGER if cell.contended else "")


def rich_table(all_rows: Sequence[Row], *, width: int = 100) -> RenderableType:
    """Return two tables per data set for a terminal, seeds together, with footnotes: the results,
    and of networks with gates whether they follow the image.

    Where the terminal is narrow the least important columns are left out, which a note says. Failed
    runs stand below with their reasons.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[Text] = []
    groups = without_restated(group_seeds(all_rows))
    for dataset in dict.fromkeys(group.first.dataset for group in groups):
        chosen = [group for group in groups if group.first.dataset == dataset]
        marks = _Marks.of(chosen)
        results, left_out = fitting(_grouped(chosen, marks), width=width, order=_order(chosen))
        parts.append(aligned(results, width=width))
        notes = [*_notes(chosen), *marks.notes]
        notes += [f"a wider terminal also shows: {', '.join(left_out)}"] if left_out else []
        parts += [Text(f"  {note}", style="dim") for note in notes]
        dynamics = dynamics_table(chosen)
        if dynamics.lines:
            shown, _ = fitting(dynamics, width=width, order=DYNAMICS_ORDER)
            titled = ReportTable(shown.name, "\nIs it dynamic?", shown.titles, shown.lines)
            parts.append(aligned(titled, width=width))
            parts.append(Text(f"  {dynamics.caption}", style="dim"))
    for row in all_rows:
        if not row.measured:
            name = f"{row.method} {row.variant}".strip()
            said = f"  {name} (seed {row.seed}) {row.status}: {row.reason}"
            parts.append(Text(said, "dim" if row.status == NOT_APPLICABLE else "red"))
    return Group(*parts) if parts else Text("No runs yet. Start one with: bench run")


@dataclass(frozen=True, slots=True)
class _Marks:
    """What stands in cells and is explained below: why a time is missing, and the profile that it
    was taken by where there are several. Reasons are numbered as they come."""

    profiles: dict[str, str]
    reasons: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, groups: Sequence[SeedGroup]) -> _Marks:
        """Return the marks of a table of these groups."""
        cells = [cell for group in groups for row in group.rows for cell in row.timings]
        names = sorted({cell.profile for cell in cells if cell.profile})
        return cls({name: f"({name[0]})" for name in names} if len(names) > 1 else {})

    def why(self, row: Row, size: int, runtime: str | None = None) -> str:
        """Return the mark of the reason for which there is no time."""
        return self.reasons.setdefault(row.why_untimed(size, runtime), f"[{len(self.reasons) + 1}]")

    @property
    def notes(self) -> list[str]:
        found = [f"{mark} no time: {reason}" for reason, mark in self.reasons.items()]
        return found + [f"{mark} latency profile {name}" for name, mark in self.profiles.items()]


def _grouped(groups: Sequence[SeedGroup], marks: _Marks) -> ReportTable:
    """Return the results with seeds together, in all columns that there are."""
    rows = [row for group in groups for row in group.rows]
    recipes = sorted({row.recipe for row in rows})
    cells = _timed_cells(rows)
    lines = []
    for group in groups:
        first, time_ms = group.first, group.mean_time("latency_ms", 1)
        lines.append(
            {
                "method": group.label + (f", {first.recipe}" if len(recipes) > 1 else ""),
                "backbone": first.backbone,
                "acc. %": percent_with_sd(group.accuracy, group.accuracy_sd, between=" ±"),
                "nFLOPs": number(group.mean_of("nflops"), ".3f", none="-"),
                "w/o\npol.": number(group.mean_of("nflops_backbone"), ".3f", none="-"),
                "MMACs": number(group.mean_of("macs"), ".1f", scale=1e-6, none="-"),
                "ms\nb=1": marks.why(first, 1) if time_ms is None else f"{time_ms:.2f}",
                **{_speed_title(*cell): _speed(group, *cell, marks) for cell in cells},
                "train": spent(first),
                "seed": f"n={group.seeds}" if group.seeds > 1 else str(first.seed),
            }
        )
    kind = " (synthetic data)" if any(row.synthetic for row in rows) else ""
    return table_of("results", f"{rows[0].dataset}{kind}, recipe {' and '.join(recipes)}", lines)


def _order(groups: Sequence[SeedGroup]) -> list[str]:
    """Return the titles of columns, the most important first."""
    cells = _timed_cells([row for group in groups for row in group.rows])
    alone, batched = (
        [_speed_title(*cell) for cell in cells if (cell[1] == BATCH_SIZES[0]) is first]
        for first in (True, False)
    )
    before = ["acc. %", "nFLOPs", "backbone", *alone, "train", "seed", *batched]
    return [*before, "ms\nb=1", "MMACs", "w/o\npol."]


def _timed_cells(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """Return the runtimes and batch sizes that have a column: of the first two runtimes in which
    anything was timed, the sizes that were asked for; the first of each where nothing was."""
    tried = {cell.batch_size for row in rows for cell in row.timings}
    sizes = [size for size in BATCH_SIZES if size in tried] or BATCH_SIZES[:1]
    names = (runtimes_of(rows) or [MAIN_RUNTIME])[:_SHOWN_RUNTIMES]
    return [(name, size) for name in names for size in sizes]


def _speed_title(runtime: str, size: int) -> str:
    return f"{runtime}\nb={size}"


def _speed(group: SeedGroup, runtime: str, size: int, marks: _Marks) -> str:
    cells = [cell for cell in group.timings(size, runtime) if cell.speedup is not None]
    if not cells:
        return marks.why(group.first, size, runtime) + " "
    # Seeds that disagree have no common verdict.
    verdicts = {str(cell.verdict) for cell in cells}
    mark = _MARKS.get(verdicts.pop(), " ") if len(verdicts) == 1 else " "
    profile = "".join(marks.profiles.get(p, "") for p in sorted({str(c.profile) for c in cells}))
    dagger = DAGGER if any(cell.contended for cell in cells) else ""
    return f"{group.mean_time('speedup', size, runtime):.2f}x{mark}{profile}{dagger}"


def _notes(groups: Sequence[SeedGroup]) -> list[str]:
    rows = [row for group in groups for row in group.rows]
    cells = [cell for row in rows for cell in row.timings]
    timed = runtimes_of(rows)
    notes = [*footnotes(groups), seed_note(groups)]
    notes.append("train: whole training cost in epochs of the dense network")
    if len({row.backbone for row in rows}) > 1:
        notes.append("nFLOPs, speeds and training costs are relative to each row's own backbone")
    if timed:
        notes.append(_MARK_NOTE)
    if len(timed) > _SHOWN_RUNTIMES:
        more = ", ".join(timed[_SHOWN_RUNTIMES:])
        notes.append(f"also timed in {more}: bench results --format md")
    if any(cell.contended for cell in cells):
        notes.append(CONTENDED_NOTE)
    devices = sorted({cell.device for cell in cells if cell.batch_size == BATCH_SIZES[0]})
    if devices:
        apart = "" if len(devices) == 1 else " (compare within one machine only)"
        notes.append(f"latency on {'; '.join(devices)}{apart}")
    return notes
