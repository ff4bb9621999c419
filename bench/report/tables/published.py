"""Comparison with the papers: published, measured, difference, and by which recipe.

Owns which of our networks stands beside which published line; says so where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.plain_text import counted
from bench.records.published import PublishedPoint, canonical_name
from bench.report.data.study import SeedGroup
from bench.report.tables.cells import ReportTable, number, percent_with_sd, table_of

_NOT_RUN = "not run"


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
        _line(point, group)
        for point in published
        if canonical_name(point.method) in methods or canonical_name(point.backbone) in backbones
        for group in _ours(point, groups) or [None]
    ]
    caption = "As their sources print them, and our runs of the same kind."
    notes = (
        "differences: measured - published; recipes differ, and so does what a difference means",
    )
    lines.sort(key=lambda line: line["our network"] == _NOT_RUN)
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


def _line(point: PublishedPoint, group: SeedGroup | None) -> dict[str, str]:
    measured = recipe = ""
    gain = nflops = more = None
    if group is not None:
        first, nflops = group.first, group.mean_of("nflops")
        measured = percent_with_sd(group.accuracy, group.accuracy_sd)
        begun = "" if first.pretraining == "none" else f" from {first.pretraining}"
        epochs = counted(first.train_epochs or 0, "epoch")
        recipe = f"{first.recipe}, {epochs}{begun}, n={group.seeds}"
        gain = None if point.accuracy is None else group.accuracy - point.accuracy
        more = None if nflops is None or point.nflops is None else nflops - point.nflops
    return {
        "network": f"{point.method} {point.variant}".strip(),
        "backbone": point.backbone,
        "accuracy %, published": number(point.accuracy, scale=100),
        "measured": measured,
        "difference, points": number(gain, "+.2f", scale=100),
        "nFLOPs, published": number(point.nflops),
        "nFLOPs, measured": number(nflops, ".3f"),
        "nFLOPs, difference": number(more, "+.3f"),
        "our network": _NOT_RUN if group is None else group.label,
        "our recipe": recipe,
        "source": point.source,
        "note": point.note,
    }
