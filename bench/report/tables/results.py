"""The results, seeds together: the table of numbers, that of dynamics, and that beside the papers',
for the terminal, documents and the page.

Owns their columns, marks and notes, and which of our networks stands beside which published line;
JSON and CSV hold every key of every row (data/row.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Literal

from bench.plain_text import counted, one_line
from bench.records.published import PublishedPoint, canonical_name
from bench.report.data.budgets import footnotes, spent
from bench.report.data.row import (
    BATCH_SIZES,
    EXTRAS,
    KEYS,
    MAIN_RUNTIME,
    Row,
    flat,
    place_in_words,
    runtimes_of,
)
from bench.report.data.study import SeedGroup, group_seeds, without_restated
from bench.report.figures.chart import CONTENDED_NOTE, DAGGER
from bench.report.tables import cells
from bench.report.tables.cells import ReportTable, number, percent_with_sd, table_of

if TYPE_CHECKING:
    from rich.console import RenderableType

_TITLES = ("method", "accuracy, %", "nFLOPs", "backbone", "seeds", "train")
_POLICY = "nFLOPs\nw/o policy"
_MARKS = {
    **{"faster": "▲", "slower": "▼", "indistinguishable": "≈", "uncertain": "?", "baseline": "="}
}
_MARK_NOTE = (
    "▲ faster, ▼ slower, ≈ indistinguishable from the dense network (= baseline) in the same "
    "runtime, ? the interval is too wide to say; without a mark seeds disagree"
)
_NOT_RUN = "not run"
_EXPLAINED = (
    "dropped: mean share of gated blocks that an image does not run",
    "cost ±: spread of nFLOPs over images",
    "shuffled: change in accuracy, in points, when every image follows another image's decisions, "
    "same cost",
    "difficulty: rank correlation of an image's MACs with the dense network's loss on it",
)


def render(all_rows: Sequence[Row], format: Literal["csv", "json", "md", "latex"]) -> str:
    """Return the rows as text; CSV and JSON hold every key in full precision."""
    if format == "json":
        found = list(map(flat, all_rows))
        return json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    if format == "csv":
        lines = ([_cell(value) for value in flat(row).values()] for row in all_rows)
        return cells.csv_lines([(*KEYS, *EXTRAS), *lines])
    written = cells.markdown if format == "md" else cells.latex
    return "\n".join(map(written, _by_dataset(all_rows) or [results_table([])]))


def _cell(value: object) -> object:
    if isinstance(value, list):
        return cells.no_formula(" ".join(value))
    return json.dumps(value) if isinstance(value, dict) else cells.no_formula(value)


def rich_table(all_rows: Sequence[Row], *, width: int = 100) -> RenderableType:
    """Return two tables per data set for a terminal: the results, and of networks with gates
    whether they follow the image. Where it is narrow the last columns are left out, which a note
    says."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Text] = []
    for table in _by_dataset(all_rows):
        shown, left_out = cells.fitting(table, width=width)
        if left_out:
            more = f"a wider terminal also shows: {', '.join(left_out)}"
            shown = replace(shown, notes=(*shown.notes, more))
        parts.append(cells.aligned(shown, width=width))
    return Group(*parts) if parts else Text("No runs yet. Start one with: bench run")


def _by_dataset(all_rows: Sequence[Row]) -> list[ReportTable]:
    """Return the results of each data set and, where there are gates, the table of dynamics."""
    tables = []
    ordered = sorted(all_rows, key=attrgetter("dataset"))
    for _, own in groupby(ordered, key=attrgetter("dataset")):
        rows = list(own)
        groups = without_restated(group_seeds(rows))
        dynamics = dynamics_table(groups)
        tables += [_results_table(rows, groups), *([dynamics] if dynamics.lines else [])]
    return tables


def results_table(all_rows: Sequence[Row]) -> ReportTable:
    """Return the results on one data set: a line per network and operating point, the columns that
    matter most first."""
    return _results_table(all_rows, without_restated(group_seeds(all_rows)))


def _results_table(all_rows: Sequence[Row], groups: Sequence[SeedGroup]) -> ReportTable:
    rows = [row for group in groups for row in group.rows]
    recipes = sorted({row.recipe for row in rows})
    tried = {cell.batch_size for row in rows for cell in row.timings}
    sizes = [size for size in BATCH_SIZES if size in tried] or BATCH_SIZES[:1]
    timed = [(name, size) for size in sizes for name in runtimes_of(rows) or [MAIN_RUNTIME]]
    reasons: dict[str, str] = {}
    lines = []
    for group in groups:
        first = group.first
        values = (
            group.label + (f", {first.recipe}" if len(recipes) > 1 else ""),
            percent_with_sd(group.accuracy, group.accuracy_sd),
            number(group.mean_of("nflops"), ".3f"),
            group.backbone,
            str(group.seeds),
            spent(first),
        )
        policy = number(group.mean_of("nflops_backbone"), ".3f")
        rest = {_POLICY: policy, "MMACs": number(group.mean_of("macs"), ".1f", scale=1e-6)}
        lines.append(dict(zip(_TITLES, values, strict=True)) | _times(group, timed, reasons) | rest)
    caption = "No finished runs."
    if rows:
        kind = " (synthetic data)" if any(row.synthetic for row in rows) else ""
        caption = f"{rows[0].dataset}{kind}, recipe {' and '.join(recipes)}"
    notes = [*footnotes(rows), *_notes(rows)]
    for row in all_rows:
        if not row.measured:
            name = f"{row.method} {row.variant}".strip()
            notes.append(f"{name} (seed {row.seed}) {row.status}: {row.reason}")
    notes += [f"{mark} no time: {reason}" for reason, mark in reasons.items()]
    return table_of("results", caption, lines, titles=_TITLES, notes=notes)


def _times(
    group: SeedGroup, timed: Sequence[tuple[str, int]], reasons: dict[str, str]
) -> dict[str, str]:
    """Return the cells of times: all speed-ups, intervals, milliseconds. What is missing gets the
    mark of its reason, which is added to `reasons` where it is new."""
    speeds, intervals, times = {}, {}, {}
    for runtime, size in timed:
        at = f"{runtime}\nb={size}"
        speed = _speed(group, runtime, size)
        took_ms = number(group.mean_time("latency_ms", size, runtime))
        if not (speed and took_ms):
            why = group.first.why_untimed(size, runtime)
            mark = reasons.setdefault(why, f"[{len(reasons) + 1}]")
            speed, took_ms = speed or mark, took_ms or mark
        speeds[f"speed-up\n{at}"], times[f"ms\n{at}"] = speed, took_ms
        intervals[f"95 %\n{at}"] = _interval(group, runtime, size)
    return speeds | intervals | times


def _speed(group: SeedGroup, runtime: str, size: int) -> str:
    timings = [cell for cell in group.timings(size, runtime) if cell.speedup is not None]
    if not timings:
        return ""
    # Seeds that disagree have no common verdict.
    verdicts = {str(cell.verdict) for cell in timings}
    mark = _MARKS.get(verdicts.pop(), "") if len(verdicts) == 1 else ""
    dagger = DAGGER if any(cell.contended for cell in timings) else ""
    return f"{group.mean_time('speedup', size, runtime):.2f}x{mark}{dagger}"


def _interval(group: SeedGroup, runtime: str, size: int) -> str:
    """Return the interval of a speed-up; of several seeds, from the lowest end to the highest."""
    timings = group.timings(size, runtime)
    found = [cell.speedup_interval for cell in timings if cell.speedup_interval is not None]
    ends = [end for interval in found for end in (interval.low, interval.high)]
    return f"{min(ends):.2f} to {max(ends):.2f}" if ends else ""


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    timings = [cell for row in rows for cell in row.timings if cell.latency_ms is not None]
    yield "train: whole training cost in epochs of the dense network"
    if len({row.backbone for row in rows}) > 1:
        yield "nFLOPs, speeds and training costs are relative to each row's own backbone"
    if not timings:
        return
    yield _MARK_NOTE
    if any(cell.contended for cell in timings):
        yield CONTENDED_NOTE
    profiles = sorted({cell.profile for cell in timings})
    for profile in profiles if len(profiles) > 1 else ():
        of = {row.method for row in rows for cell in row.timings if cell.profile == profile}
        yield f"latency profile {one_line(profile)}: {', '.join(sorted(of))}"
    devices = sorted(set(map(place_in_words, timings)))
    alone = "" if len(devices) == 1 else " (compare within one machine only)"
    yield f"latency on {'; '.join(devices)}{alone}"


def dynamics_table(groups: Sequence[SeedGroup]) -> ReportTable:
    """Return, of the groups that have gates, whether these follow the image."""
    lines = []
    for group in (group for group in groups if group.gated):
        dead = {int(b.removeprefix("block")) for r in group.rows for b in r.dead_blocks or ()}
        line = {
            "method": group.label,
            "dropped": number(group.mean_of("mean_drop"), ".1%"),
            "masks": number(group.mean_of("distinct_masks"), ",.0f"),
            "cost ±": number(group.mean_of("nflops_std"), ".3f"),
            "shuffled": number(group.mean_of("shuffled_loss"), "+z.2f", scale=-100),
            "difficulty": number(group.mean_of("difficulty_correlation"), "+z.2f"),
            "never run": ", ".join(map(str, sorted(dead))),
        }
        lines.append(line)
    return table_of("behaviour", "Is it dynamic?", lines, notes=_EXPLAINED)


def published_table(
    published: Sequence[PublishedPoint], groups: Sequence[SeedGroup]
) -> ReportTable:
    """Return what papers print of methods or backbones of ours, with each of our runs of that kind;
    first of what was run.

    Dense networks stand beside dense ones. A variant such as MF stands beside the runs whose
    variant has that word in it; where there is none, the line says so.
    """
    methods = {canonical_name(group.first.method) for group in groups}
    backbones = {canonical_name(group.backbone) for group in groups}
    lines = [
        published_cells(point) | _beside(point, group)
        for point in published
        if canonical_name(point.method) in methods or canonical_name(point.backbone) in backbones
        for group in _ours(point, groups) or [None]
    ]
    lines.sort(key=lambda line: line["our network"] == _NOT_RUN)
    caption = "As their sources print them, and our runs of the same kind."
    notes = (
        "difference: measured - published; recipes differ, and so does what a difference means",
    )
    return table_of("published", caption, lines, notes=notes)


def published_cells(point: PublishedPoint) -> dict[str, str]:
    """Return what is to be said of a published point, as text under titles."""
    return {
        "method": point.method,
        "variant": point.variant,
        "backbone": point.backbone,
        "accuracy %": number(point.accuracy, scale=100),
        "nFLOPs": number(point.nflops, ".3f"),
        "MMACs": number(point.macs, scale=1e-6),
        "source": point.source,
        "note": point.note,
    }


def _ours(point: PublishedPoint, groups: Sequence[SeedGroup]) -> list[SeedGroup | None]:
    backbone, method = canonical_name(point.backbone), canonical_name(point.method)
    same = [g for g in groups if canonical_name(g.backbone) == backbone]
    if method == "resnet":
        return [group for group in same if group.dense]
    wanted = _words(point.variant)
    return [
        group
        for group in same
        if canonical_name(group.first.method) == method and wanted <= _words(group.variant)
    ]


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def _beside(point: PublishedPoint, group: SeedGroup | None) -> dict[str, str]:
    """Return what is to be said of our runs beside a published point."""
    titles = ("our network", "measured", "difference, points", "our nFLOPs", "our recipe")
    values = (_NOT_RUN, "", "", "", "")
    if group is not None:
        first = group.first
        gain = None if point.accuracy is None else group.accuracy - point.accuracy
        begun = "" if first.pretraining == "none" else f" from {first.pretraining}"
        epochs = counted(first.train_epochs or 0, "epoch")
        values = (
            group.label,
            percent_with_sd(group.accuracy, group.accuracy_sd),
            number(gain, "+.2f", scale=100),
            number(group.mean_of("nflops"), ".3f"),
            f"{first.recipe}, {epochs}{begun}, n={group.seeds}",
        )
    return dict(zip(titles, values, strict=True))
