"""Tables of results: for the terminal, and as CSV, JSON, Markdown and LaTeX.

Owns columns and number formats; the rows themselves come from rows.py, seeds are put together in
groups.py. Loads pandas and rich only when a table is made.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from bench.errors import UnknownNameError
from bench.records.record import UNKNOWN_RUNTIME
from bench.report.columns import LONG, long_table, places_that_fit
from bench.report.dynamics import dynamics_parts
from bench.report.groups import Group, footnotes, group_seeds, seed_note, spent, without_restated
from bench.report.rows import (
    EXTRAS,
    KEYS,
    MAIN_RUNTIME,
    NOT_APPLICABLE,
    Row,
    filter_rows,
    is_measured,
    rows,
)
from bench.report.style import CONTENDED_NOTE, DAGGER

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType
    from rich.table import Table

Format = Literal["csv", "json", "md", "latex"]
FORMATS: tuple[str, ...] = get_args(Format)

__all__ = [
    "FORMATS",
    "Format",
    "document_table",
    "filter_rows",
    "render",
    "rich_table",
    "rows",
    "to_dataframe",
]

_DOCUMENT_COLUMNS = {
    "method": "method",
    "variant": "variant",
    "dataset": "data",
    "backbone": "backbone",
    "recipe": "recipe",
    "seed": "seed",
    "accuracy": "accuracy %",
    "nflops": "nFLOPs",
    "nflops_backbone": "nFLOPs without policy",
    "macs": "MMACs",
    "latency_ms_b1": "ms, batch 1",
    "total_dense_epochs": "training, dense epochs",
    "budget_note": "note",
}
_BATCHES = {"b1": "batch 1", "b256": "batch 256"}
_SHOWN_RUNTIMES = 2  # side by side in a terminal
_WHOLE_NUMBERS = (
    *("seed", "params", "params_inference", "train_epochs", "distinct_masks", "correct"),
    *("dense_macs", "test_images", "gated_blocks"),
)
_LONGEST_NAME = len("static_projection")
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

    table = pd.DataFrame(list(all_rows), columns=[*KEYS, *EXTRAS])
    # Int64 has room for "not measured"; int64 would turn whole columns into floats.
    return table.astype(dict.fromkeys(_WHOLE_NUMBERS, "Int64"))


def render(all_rows: Sequence[Row], format: str) -> str:
    """Return the rows as text in one of FORMATS; CSV and JSON hold every key in full precision.

    Raises:
        UnknownNameError: there is no such format.
    """
    writers: dict[str, Callable[[Sequence[Row]], str]] = {
        "csv": _csv,
        "json": _json,
        "md": _markdown,
        "latex": _latex,
    }
    if format not in writers:
        raise UnknownNameError("format", format, FORMATS)
    return writers[format](all_rows)


def _json(all_rows: Sequence[Row]) -> str:
    return json.dumps(list(all_rows), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _csv(all_rows: Sequence[Row]) -> str:
    table = to_dataframe(all_rows)
    for key in ("reconstructed", "settings", "unchecked"):
        table[key] = [" ".join(row[key]) for row in all_rows]
    table["by_runtime"] = [json.dumps(row["by_runtime"] or {}) for row in all_rows]
    return str(table.map(no_formula).to_csv(index=False, lineterminator="\n"))


def no_formula(value: Any) -> Any:
    """Return a cell that no spreadsheet calculates: what looks like a formula is made a text."""
    starts = isinstance(value, str) and value.startswith(("=", "+", "-", "@"))
    return f"'{value}" if starts else value


def _markdown(all_rows: Sequence[Row]) -> str:
    cells = _document(all_rows).map(markdown_text)
    return str(cells.to_markdown(index=False, disable_numparse=True)) + "\n"


def markdown_text(text: str) -> str:
    """Return `text` so that Markdown shows it: no cell border, no HTML, no link, no image."""
    return re.sub(r"([\\|`\[\]])", r"\\\1", html.escape(text, quote=False))


def _latex(all_rows: Sequence[Row]) -> str:
    table = _document(all_rows)
    # The Styler escapes cells and not column names.
    table.columns = table.columns.str.replace("%", "\\%", regex=False)
    escaped = table.style.hide(axis="index").format(escape="latex")
    return str(escaped.to_latex(hrules=True))


def document_table(all_rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return what a reader of a document needs of each row, as text under column titles."""
    apart = {
        (row["run"], row["point"]): group.apart
        for group in group_seeds(all_rows)
        for row in group.rows
    }
    speeds = [(runtime, suffix) for runtime in _runtimes(all_rows) for suffix in _BATCHES]
    table = []
    for row in all_rows:
        line = {title: _cell(key, row[key]) for key, title in _DOCUMENT_COLUMNS.items()}
        more = apart.get((row["run"], row["point"]), "")
        line["variant"] = " ".join(part for part in (line["variant"], more) if part)
        line |= {
            _speed_title(runtime, suffix): _speed_in_full(row, runtime, suffix)
            for runtime, suffix in speeds
        }
        if row["latency_ms_b1"] is None:
            line[_DOCUMENT_COLUMNS["latency_ms_b1"]] = f"none: {_why_untimed(row, 'b1')}"
        if not is_measured(row):
            line["note"] = " ".join(f"{row['status']}: {row['reason']}".split())
        table.append(line)
    return table


def _runtimes(all_rows: Sequence[Row]) -> list[str]:
    """Return the runtimes in which anything was timed, in the order in which they are shown."""
    names = {name: None for row in all_rows for name in row["by_runtime"] or {}}
    order = (MAIN_RUNTIME, *sorted(names.keys() - {MAIN_RUNTIME, UNKNOWN_RUNTIME}), UNKNOWN_RUNTIME)
    return [name for name in order if name in names]


def _speed_title(runtime: str, suffix: str) -> str:
    return f"speed-up {runtime}, {_BATCHES[suffix]}"


def _speed_in_full(row: Row, runtime: str, suffix: str) -> str:
    cells = (row["by_runtime"] or {}).get(runtime, {})
    ratio, low, high = (
        cells.get(f"{key}_{suffix}") for key in ("speedup", "speedup_low", "speedup_high")
    )
    if ratio is None:
        return f"none: {_why_untimed(row, suffix)}"
    interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    verdict = cells.get(f"verdict_{suffix}")
    judged = f" {verdict}" if verdict else ""
    return f"{ratio:.2f}{interval}{judged}" + (DAGGER if cells.get(f"contended_{suffix}") else "")


def _why_untimed(row: Row, suffix: str) -> str:
    """Return why there is no time at this batch size; of a run without points, its status."""
    if row["point"] is None:
        return str(row["status"])
    reason = row["latency_reason" if suffix == "b1" else f"latency_reason_{suffix}"]
    return reason or "timed without a dense network in the same rounds"


def _document(all_rows: Sequence[Row]) -> pd.DataFrame:
    import pandas as pd

    table = document_table(all_rows)
    columns = list(table[0]) if table else list(_DOCUMENT_COLUMNS.values())
    return pd.DataFrame(table, columns=columns, dtype="str")


def _cell(key: str, value: object) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    scale = {"accuracy": 100.0, "macs": 1e-6}.get(key, 1.0)
    digits = {"nflops": 3, "nflops_backbone": 3, "total_dense_epochs": 1}.get(key, 2)
    return f"{value * scale:.{digits}f}"


def rich_table(all_rows: Sequence[Row], *, width: int = 100) -> RenderableType:
    """Return one table per data set for a terminal, seeds together, with footnotes.

    Where the terminal is narrow the least important columns are left out, which a note says. Failed
    runs stand below with their reasons.
    """
    from rich.console import Group as Lines
    from rich.text import Text

    parts: list[RenderableType] = []
    groups = without_restated(group_seeds(all_rows))
    for dataset in dict.fromkeys(group.first["dataset"] for group in groups):
        chosen = [group for group in groups if group.first["dataset"] == dataset]
        timed = _runtimes([row for group in chosen for row in group.rows])
        columns = _shown(chosen, _columns(timed), width)
        parts.append(_terminal_table(chosen, columns))
        notes = (*_notes(chosen), *_left_out(columns, _columns(timed)))
        parts += [Text(f"  {note}", style="dim") for note in notes]
        parts += dynamics_parts(chosen, width=width)
    for row in all_rows:
        if not is_measured(row):
            name = f"{row['method']} {row['variant']}".strip()
            said = f"  {name} (seed {row['seed']}) {row['status']}: {row['reason']}"
            parts.append(Text(said, "dim" if row["status"] == NOT_APPLICABLE else "red"))
    return Lines(*parts) if parts else Text("No runs yet. Start one with: bench run")


def _notes(groups: Sequence[Group]) -> list[str]:
    notes = [*footnotes(groups), seed_note(groups)]
    notes += _marks_of(groups).notes
    notes.append("train: whole training cost in epochs of the dense network")
    if len({group.first["backbone"] for group in groups}) > 1:
        notes.append("nFLOPs, speeds and training costs are relative to each row's own backbone")
    timed = _runtimes([row for group in groups for row in group.rows])
    if timed:
        notes.append(_MARK_NOTE)
    if len(timed) > _SHOWN_RUNTIMES:
        more = ", ".join(timed[_SHOWN_RUNTIMES:])
        notes.append(f"also timed in {more}: bench results --format md")
    if any(_shared(g, name, suffix) for g in groups for name in timed for suffix in _BATCHES):
        notes.append(CONTENDED_NOTE)
    devices = sorted({d for g in groups for r in g.rows if (d := r["latency_device"])})
    if devices:
        apart = "" if len(devices) == 1 else " (compare within one machine only)"
        notes.append(f"latency on {'; '.join(devices)}{apart}")
    return notes


@dataclass(frozen=True, slots=True)
class _Marks:
    """What stands in cells of a table and is explained below it: why a time is missing, and the
    profile that it was taken by where there are several."""

    reasons: Mapping[str, str]
    profiles: Mapping[str, str]

    @property
    def notes(self) -> list[str]:
        found = [f"{mark} no time: {reason}" for reason, mark in self.reasons.items()]
        return found + [f"{mark} latency profile {name}" for name, mark in self.profiles.items()]


def _marks_of(groups: Sequence[Group]) -> _Marks:
    cells = [(row, suffix) for g in groups for row in g.rows for suffix in ("b1", "b256")]
    reasons = dict.fromkeys(_why_untimed(row, s) for row, s in cells if row[f"speedup_{s}"] is None)
    profiles = sorted({str(row[f"profile_{s}"]) for row, s in cells if row[f"profile_{s}"]})
    return _Marks(
        {reason: f"[{number}]" for number, reason in enumerate(reasons, start=1)},
        {name: f"({name[0]})" for name in profiles} if len(profiles) > 1 else {},
    )


def _left_out(columns: Sequence[_Column], every: Sequence[_Column]) -> list[str]:
    shown = {column.title for column in columns}
    left = [c.title.replace("\n", " ") for c in every if c.title not in shown]
    return [f"a wider terminal also shows: {', '.join(left)}"] if left else []


def _terminal_table(groups: Sequence[Group], columns: Sequence[_Column]) -> RenderableType:
    first = groups[0].first
    recipes = sorted({group.first["recipe"] for group in groups})
    kind = " (synthetic data)" if any(g.first["synthetic"] for g in groups) else ""
    title = f"{first['dataset']}{kind}, recipe {' and '.join(recipes)}"
    alone = len(recipes) == 1
    marks = _marks_of(groups)
    lines = [
        [group.label if alone else f"{group.label}, {group.first['recipe']}"]
        + [column.cell(group, marks) for column in columns]
        for group in groups
    ]
    heads = ["method", *(column.title for column in columns)]
    return long_table(title, heads, lines) if len(lines) > LONG else _boxed(title, heads, lines)


def _boxed(title: str, heads: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        # Text, so that a name in square brackets is not taken for markup.
        title=Text(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    longest = max(len(line[0]) for line in lines)
    table.add_column("method", overflow="fold", min_width=min(longest, _LONGEST_NAME))
    for head in heads[1:]:
        table.add_column(head, justify="right", no_wrap=True)
    for line in lines:
        # Text, so that a name in square brackets is not taken for markup.
        table.add_row(*map(Text, line))
    return table


class _Column(NamedTuple):
    """One column; those of a higher rank are left out first."""

    title: str
    cell: Callable[[Group, _Marks], str]
    rank: int


def _columns(timed: Sequence[str]) -> list[_Column]:
    """Return all columns; of the runtimes in which anything was timed, the first two have some."""
    speeds = [
        _Column(f"{name}\nb={suffix[1:]}", partial(_speed, name, suffix), rank)
        for name, ranks in zip(timed or (MAIN_RUNTIME,), ((3, 7), (4, 8)), strict=False)
        for suffix, rank in zip(_BATCHES, ranks, strict=True)
    ]
    return [
        _Column("backbone", lambda g, _: str(g.first["backbone"]), 2),
        _Column("acc. %", lambda g, _: _accuracy(g), 0),
        _Column("nFLOPs", lambda g, _: _number(g.mean_of("nflops"), "{:.3f}"), 1),
        _Column("w/o\npol.", lambda g, _: _number(g.mean_of("nflops_backbone"), "{:.3f}"), 11),
        _Column("MMACs", lambda g, _: _number(g.mean_of("macs"), "{:.1f}", scale=1e-6), 10),
        _Column("ms\nb=1", lambda g, marks: _time(g, marks), 9),
        *speeds,
        _Column("train", lambda g, _: spent(g.first), 5),
        _Column("seed", lambda g, _: f"n={g.seeds}" if g.seeds > 1 else str(g.first["seed"]), 6),
    ]


def _shown(groups: Sequence[Group], every: Sequence[_Column], width: int) -> list[_Column]:
    """Return the columns for which there is room beside the names."""
    heads = ["method", *(column.title for column in every)]
    marks = _marks_of(groups)
    lines = [[group.label, *(column.cell(group, marks) for column in every)] for group in groups]
    order = sorted(range(1, len(heads)), key=lambda place: every[place - 1].rank)
    places = places_that_fit(heads, lines, width=width, order=order, longest_name=_LONGEST_NAME)
    return [every[place - 1] for place in places[1:]]


def _accuracy(group: Group) -> str:
    sd = group.accuracy_sd
    return f"{100 * group.accuracy:.2f}" + ("" if sd is None else f" ±{100 * sd:.2f}")


def _number(value: float | None, form: str, *, scale: float = 1.0) -> str:
    return "-" if value is None else form.format(value * scale)


def _time(group: Group, marks: _Marks) -> str:
    time_ms = group.mean_of("latency_ms_b1")
    if time_ms is None:
        return marks.reasons.get(_why_untimed(group.first, "b1"), "-")
    return f"{time_ms:.2f}"


def _speed(runtime: str, suffix: str, group: Group, marks: _Marks) -> str:
    ratios = group.in_runtime(runtime, f"speedup_{suffix}")
    main = group.first["runtime"] in (runtime, None)
    if not ratios:
        return f"{marks.reasons.get(_why_untimed(group.first, suffix), '-') if main else '-'} "
    # Seeds that disagree have no common verdict.
    verdicts = set(group.in_runtime(runtime, f"verdict_{suffix}"))
    mark = _MARKS.get(verdicts.pop(), " ") if len(verdicts) == 1 else " "
    names = sorted({str(row[f"profile_{suffix}"]) for row in group.rows})
    profile = "".join(marks.profiles.get(name, "") for name in names)
    return f"{fmean(ratios):.2f}x{mark}{profile}" + (
        DAGGER if _shared(group, runtime, suffix) else ""
    )


def _shared(group: Group, runtime: str, suffix: str) -> bool:
    return any(group.in_runtime(runtime, f"contended_{suffix}"))
