"""Tables of results for a terminal: seeds together, as many columns as it has room for, footnotes.

Owns columns, marks and notes; the numbers come with groups. Loads rich only when a table is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from bench.report.data.groups import Group, group_seeds, without_restated
from bench.report.data.notes import footnotes, seed_note, spent
from bench.report.data.row import BATCH_SIZES, MAIN_RUNTIME, NOT_APPLICABLE, Row, runtimes_of
from bench.report.figures.style import CONTENDED_NOTE, DAGGER
from bench.report.tables.columns import LONG, boxed, long_table, places_that_fit
from bench.report.tables.dynamics import dynamics_parts

if TYPE_CHECKING:
    from rich.console import RenderableType

_SHOWN_RUNTIMES = 2  # side by side
_MARKS = {
    **{"faster": "▲", "slower": "▼", "indistinguishable": "≈", "uncertain": "?", "baseline": "="}
}
_MARK_NOTE = (
    "▲ faster, ▼ slower, ≈ indistinguishable from the dense network (= baseline) in the same "
    "runtime, ? the interval is too wide to say; without a mark seeds disagree"
)


def rich_table(all_rows: Sequence[Row], *, width: int = 100) -> RenderableType:
    """Return one table per data set for a terminal, seeds together, with footnotes.

    Where the terminal is narrow the least important columns are left out, which a note says. Failed
    runs stand below with their reasons.
    """
    from rich.console import Group as Lines
    from rich.text import Text

    parts: list[RenderableType] = []
    groups = without_restated(group_seeds(all_rows))
    for dataset in dict.fromkeys(group.first.dataset for group in groups):
        chosen = [group for group in groups if group.first.dataset == dataset]
        every = _columns([row for group in chosen for row in group.rows])
        columns = _shown(chosen, every, width)
        parts.append(_terminal_table(chosen, columns))
        notes = (*_notes(chosen), *_left_out(columns, every))
        parts += [Text(f"  {note}", style="dim") for note in notes]
        parts += dynamics_parts(chosen, width=width)
    for row in all_rows:
        if not row.measured:
            name = f"{row.method} {row.variant}".strip()
            said = f"  {name} (seed {row.seed}) {row.status}: {row.reason}"
            parts.append(Text(said, "dim" if row.status == NOT_APPLICABLE else "red"))
    return Lines(*parts) if parts else Text("No runs yet. Start one with: bench run")


def _notes(groups: Sequence[Group]) -> list[str]:
    rows = [row for group in groups for row in group.rows]
    cells = [cell for row in rows for cell in row.timings]
    notes = [*footnotes(groups), seed_note(groups), *_marks_of(groups).notes]
    notes.append("train: whole training cost in epochs of the dense network")
    if len({row.backbone for row in rows}) > 1:
        notes.append("nFLOPs, speeds and training costs are relative to each row's own backbone")
    timed = runtimes_of(rows)
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
    rows = [row for group in groups for row in group.rows]
    cells = [
        (row, row.timing(size, runtime), size, runtime)
        for row in rows
        for runtime in runtimes_of(rows)[:_SHOWN_RUNTIMES] or [""]
        for size in _timed_sizes(rows)
    ]
    reasons = dict.fromkeys(
        row.why_untimed(size, runtime)
        for row, cell, size, runtime in cells
        if cell is None or cell.speedup is None
    )
    profiles = sorted({cell.profile for _, cell, *_ in cells if cell is not None and cell.profile})
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
    recipes = sorted({group.first.recipe for group in groups})
    kind = " (synthetic data)" if any(g.synthetic for g in groups) else ""
    title = f"{first.dataset}{kind}, recipe {' and '.join(recipes)}"
    alone = len(recipes) == 1
    marks = _marks_of(groups)
    lines = [
        [group.label if alone else f"{group.label}, {group.first.recipe}"]
        + [column.cell(group, marks) for column in columns]
        for group in groups
    ]
    heads = ["method", *(column.title for column in columns)]
    return long_table(title, heads, lines) if len(lines) > LONG else boxed(title, heads, lines)


class _Column(NamedTuple):
    """One column; those of a higher rank are left out first."""

    title: str
    cell: Callable[[Group, _Marks], str]
    rank: int


def _timed_sizes(rows: Sequence[Row]) -> Sequence[int]:
    """Return the batch sizes at which anything was to be timed; the first where nothing was."""
    tried = {cell.batch_size for row in rows for cell in row.timings}
    return [size for size in BATCH_SIZES if size in tried] or BATCH_SIZES[:1]


def _columns(rows: Sequence[Row]) -> list[_Column]:
    """Return all columns; of the runtimes in which anything was timed, the first two have some."""
    names = list(runtimes_of(rows) or (MAIN_RUNTIME,))[:_SHOWN_RUNTIMES]
    speeds = [
        _Column(f"{name}\nb={size}", partial(_speed, name, size), 3 + place + 4 * later)
        for place, name in enumerate(names)
        for later, size in enumerate(_timed_sizes(rows))
    ]
    return [
        _Column("backbone", lambda g, _: g.first.backbone, 2),
        _Column("acc. %", lambda g, _: _accuracy(g), 0),
        _Column("nFLOPs", lambda g, _: _number(g.mean_of("nflops"), "{:.3f}"), 1),
        _Column("w/o\npol.", lambda g, _: _number(g.mean_of("nflops_backbone"), "{:.3f}"), 11),
        _Column("MMACs", lambda g, _: _number(g.mean_of("macs"), "{:.1f}", scale=1e-6), 10),
        _Column("ms\nb=1", lambda g, marks: _time(g, marks), 9),
        *speeds,
        _Column("train", lambda g, _: spent(g.first), 5),
        _Column("seed", lambda g, _: f"n={g.seeds}" if g.seeds > 1 else str(g.first.seed), 6),
    ]


def _shown(groups: Sequence[Group], every: Sequence[_Column], width: int) -> list[_Column]:
    """Return the columns for which there is room beside the names."""
    heads = ["method", *(column.title for column in every)]
    marks = _marks_of(groups)
    lines = [[group.label, *(column.cell(group, marks) for column in every)] for group in groups]
    order = sorted(range(1, len(heads)), key=lambda place: every[place - 1].rank)
    places = places_that_fit(heads, lines, width=width, order=order)
    return [every[place - 1] for place in places[1:]]


def _accuracy(group: Group) -> str:
    sd = group.accuracy_sd
    return f"{100 * group.accuracy:.2f}" + ("" if sd is None else f" ±{100 * sd:.2f}")


def _number(value: float | None, form: str, *, scale: float = 1.0) -> str:
    return "-" if value is None else form.format(value * scale)


def _time(group: Group, marks: _Marks) -> str:
    time_ms = group.mean_time("latency_ms", 1)
    if time_ms is None:
        return marks.reasons.get(group.first.why_untimed(1), "-")
    return f"{time_ms:.2f}"


def _speed(runtime: str, size: int, group: Group, marks: _Marks) -> str:
    cells = [cell for cell in group.timings(size, runtime) if cell.speedup is not None]
    if not cells:
        return f"{marks.reasons.get(group.first.why_untimed(size, runtime), '-')} "
    # Seeds that disagree have no common verdict.
    verdicts = {str(cell.verdict) for cell in cells}
    mark = _MARKS.get(verdicts.pop(), " ") if len(verdicts) == 1 else " "
    profile = "".join(marks.profiles.get(p, "") for p in sorted({str(c.profile) for c in cells}))
    dagger = DAGGER if any(cell.contended for cell in cells) else ""
    ratio = fmean([cell.speedup for cell in cells if cell.speedup is not None])
    return f"{ratio:.2f}x{mark}{profile}{dagger}"
