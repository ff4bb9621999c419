"""The results, seeds together: one table for the terminal, documents and the page.

Owns its columns, marks and notes; JSON and CSV hold every key of every row (data/row.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Literal, get_args

from bench.errors import UnknownNameError
from bench.report.behaviour.dynamics import DYNAMICS_ORDER, dynamics_table
from bench.report.data.budgets import footnotes, spent
from bench.report.data.groups import SeedGroup, group_seeds, without_restated
from bench.report.data.row import (
    BATCH_SIZES,
    EXTRAS,
    KEYS,
    MAIN_RUNTIME,
    Row,
    flat,
    runtimes_of,
)
from bench.report.figures.style import CONTENDED_NOTE, DAGGER
from bench.report.tables.cells import (
    ReportTable,
    aligned,
    csv_lines,
    fitting,
    latex,
    markdown,
    no_formula,
    number,
    percent_with_sd,
    table_of,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

Format = Literal["csv", "json", "md", "latex"]
FORMATS: tuple[str, ...] = get_args(Format)

_MARKS = {
    **{"faster": "▲", "slower": "▼", "indistinguishable": "≈", "uncertain": "?", "baseline": "="}
}
_MARK_NOTE = (
    "▲ faster, ▼ slower, ≈ indistinguishable from the dense network (= baseline) in the same "
    "runtime, ? the interval is too wide to say; without a mark seeds disagree"
)


def render(all_rows: Sequence[Row], format: str) -> str:
    """Return the rows as text in one of FORMATS; CSV and JSON hold every key in full precision.

    Raises:
        UnknownNameError: there is no such format.
    """
    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    if format == "json":
        found = list(map(flat, all_rows))
        return json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    if format == "csv":
        keys = (*KEYS, *EXTRAS)
        return csv_lines([keys, *([_cell(value) for value in flat(r).values()] for r in all_rows)])
    written = markdown if format == "md" else latex
    return "\n".join(map(written, _by_dataset(all_rows) or [results_table([])]))


def _cell(value: object) -> object:
    if isinstance(value, list):
        return no_formula(" ".join(value))
    return json.dumps(value) if isinstance(value, dict) else no_formula(value)


def rich_table(all_rows: Sequence[Row], *, width: int = 100) -> RenderableType:
    """Return two tables per data set for a terminal: the results, and of networks with gates
    whether they follow the image. Where it is narrow the least important columns are left out,
    which a note says."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Text] = []
    for table in _by_dataset(all_rows):
        shown, left_out = fitting(table, width=width, order=_order(table.titles))
        if left_out:
            more = f"a wider terminal also shows: {', '.join(left_out)}"
            shown = replace(shown, notes=(*shown.notes, more))
        parts.append(aligned(shown, width=width))
    return Group(*parts) if parts else Text("No runs yet. Start one with: bench run")


def _by_dataset(all_rows: Sequence[Row]) -> list[ReportTable]:
    """Return the results of each data set and, where there are gates, the table of dynamics."""
    tables = []
    ordered = sorted(all_rows, key=attrgetter("dataset"))
    for _, own in groupby(ordered, key=attrgetter("dataset")):
        rows = list(own)
        dynamics = dynamics_table(without_restated(group_seeds(rows)))
        tables += [results_table(rows), *([dynamics] if dynamics.lines else [])]
    return tables


def _order(titles: Sequence[str]) -> list[str]:
    """Return the titles of columns, the most important first."""
    speeds = [title for title in titles if title.startswith("speed-up")]
    alone = [title for title in speeds if title.endswith(f"\nb={BATCH_SIZES[0]}")]
    before = ["accuracy, %", "nFLOPs", "backbone", *alone[:1], "train", "seeds", *alone[1:]]
    return list(dict.fromkeys([*before, *DYNAMICS_ORDER, *speeds, *reversed(titles)]))


def results_table(all_rows: Sequence[Row]) -> ReportTable:
    """Return the results on one data set: a line per network and operating point."""
    groups = without_restated(group_seeds(all_rows))
    rows = [row for group in groups for row in group.rows]
    timed, reasons = _timed(rows), dict[str, str]()
    recipes = sorted({row.recipe for row in rows})
    lines = [_line(group, timed, reasons, named_recipe=len(recipes) > 1) for group in groups]
    caption = "No finished runs."
    if rows:
        kind = " (synthetic data)" if any(row.synthetic for row in rows) else ""
        caption = f"{rows[0].dataset}{kind}, recipe {' and '.join(recipes)}"
    notes = [*footnotes(rows), *_notes(rows), *_unmeasured(all_rows)]
    notes += [f"{mark} no time: {reason}" for reason, mark in reasons.items()]
    return table_of("results", caption, lines, titles=_TITLES, notes=notes)


_TITLES = ("method", "backbone", "accuracy, %", "seeds", "nFLOPs", "nFLOPs\nw/o policy", "MMACs")


def _line(
    group: SeedGroup,
    timed: Sequence[tuple[str, int]],
    reasons: dict[str, str],
    *,
    named_recipe: bool,
) -> dict[str, str]:
    first = group.first

    def why(runtime: str, size: int) -> str:
        return reasons.setdefault(first.why_untimed(size, runtime), f"[{len(reasons) + 1}]")

    values = (
        group.label + (f", {first.recipe}" if named_recipe else ""),
        group.backbone,
        percent_with_sd(group.accuracy, group.accuracy_sd),
        str(group.seeds),
        number(group.mean_of("nflops"), ".3f"),
        number(group.mean_of("nflops_backbone"), ".3f"),
        number(group.mean_of("macs"), ".1f", scale=1e-6),
    )
    line = dict(zip(_TITLES, values, strict=True))
    for runtime, size in timed:
        at = f"{runtime}\nb={size}"
        line[f"speed-up\n{at}"] = _speed(group, runtime, size) or why(runtime, size)
        line[f"95 %\n{at}"] = _interval(group, runtime, size)
        time_ms = group.mean_time("latency_ms", size, runtime)
        line[f"ms\n{at}"] = number(time_ms) or why(runtime, size)
    return line | {"train": spent(first)}


def _timed(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """Return the runtimes and batch sizes that have columns: those that were asked for."""
    tried = {cell.batch_size for row in rows for cell in row.timings}
    sizes = [size for size in BATCH_SIZES if size in tried] or BATCH_SIZES[:1]
    return [(name, size) for name in runtimes_of(rows) or [MAIN_RUNTIME] for size in sizes]


def _speed(group: SeedGroup, runtime: str, size: int) -> str:
    cells = [cell for cell in group.timings(size, runtime) if cell.speedup is not None]
    if not cells:
        return ""
    # Seeds that disagree have no common verdict.
    verdicts = {str(cell.verdict) for cell in cells}
    mark = _MARKS.get(verdicts.pop(), "") if len(verdicts) == 1 else ""
    dagger = DAGGER if any(cell.contended for cell in cells) else ""
    return f"{group.mean_time('speedup', size, runtime):.2f}x{mark}{dagger}"


def _interval(group: SeedGroup, runtime: str, size: int) -> str:
    """Return the interval of a speed-up; of several seeds, from the lowest end to the highest."""
    cells = group.timings(size, runtime)
    ends = [e for c in cells for e in (c.speedup_low, c.speedup_high) if e is not None]
    return f"{min(ends):.2f} to {max(ends):.2f}" if ends else ""


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    cells = [cell for row in rows for cell in row.timings if cell.latency_ms is not None]
    yield "train: whole training cost in epochs of the dense network"
    if len({row.backbone for row in rows}) > 1:
        yield "nFLOPs, speeds and training costs are relative to each row's own backbone"
    if not cells:
        return
    yield _MARK_NOTE
    if any(cell.contended for cell in cells):
        yield CONTENDED_NOTE
    profiles = sorted({cell.profile for cell in cells if cell.profile})
    for profile in profiles if len(profiles) > 1 else ():
        of = {row.method for row in rows for cell in row.timings if cell.profile == profile}
        yield f"latency profile {profile}: {', '.join(sorted(of))}"
    devices = sorted({cell.device for cell in cells})
    alone = "" if len(devices) == 1 else " (compare within one machine only)"
    yield f"latency on {'; '.join(devices)}{alone}"


def _unmeasured(all_rows: Sequence[Row]) -> Iterator[str]:
    for row in all_rows:
        if not row.measured:
            name = f"{row.method} {row.variant}".strip()
            yield f"{name} (seed {row.seed}) {row.status}: {row.reason}"
