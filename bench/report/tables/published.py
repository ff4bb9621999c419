"""Comparison with the paper: published, measured, difference, and by which recipe.

Owns which of our networks stands beside which published line; says so where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.plain_text import counted
from bench.records.published import PublishedPoint, canonical_name
from bench.report.data.groups import SeedGroup
from bench.report.tables.cells import ReportTable, number, percent_with_sd, table_of

PAPER = "SGAD arXiv 1807.01430"
_NOT_RUN = "not run"


def paper_table(published: Sequence[PublishedPoint], groups: Sequence[SeedGroup]) -> ReportTable:
    """Return every line of the SGAD paper on this data set, with each of our runs of its kind.

    Dense networks stand beside dense ones. A variant such as MF stands beside the runs whose
    variant has that word in it; where there is none, the line says so.
    """
    lines = [
        _line(point, group)
        for point in published
        if point.source.startswith(PAPER)
        for group in _ours(point, groups) or [None]
    ]
    caption = f"{PAPER}, Table 1, and our runs of the same kind. Differences: measured - published."
    return table_of("published", caption, lines)


def other_papers(published: Sequence[PublishedPoint], groups: Sequence[SeedGroup]) -> ReportTable:
    """Return what other sources print for methods of ours, or for one of our backbones."""
    methods = {canonical_name(group.first.method) for group in groups}
    backbones = {canonical_name(group.first.backbone) for group in groups}
    chosen = [
        point
        for point in published
        if not point.source.startswith(PAPER)
        and (canonical_name(point.method) in methods or canonical_name(point.backbone) in backbones)
    ]
    caption = "As their sources print them: other recipes, other ways of counting. Not measured."
    return table_of("other-papers", caption, list(map(published_cells, chosen)))


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
    measured, accuracy, nflops, recipe = "", None, None, ""
    if group is not None:
        accuracy, nflops, recipe = group.accuracy, group.mean_of("nflops"), _recipe(group)
        measured = percent_with_sd(group.accuracy, group.accuracy_sd)
    return {
        "backbone": point.backbone,
        "network": f"{point.method} {point.variant}",
        "accuracy %, published": number(point.accuracy, scale=100),
        "measured": measured,
        "difference, points": _difference(accuracy, point.accuracy, "+.2f", scale=100),
        "nFLOPs, published": number(point.nflops),
        "nFLOPs, measured": number(nflops, ".3f"),
        "nFLOPs, difference": _difference(nflops, point.nflops, "+.3f"),
        "our network": _NOT_RUN if group is None else group.label,
        "our recipe": recipe,
        "note of the paper": point.note,
    }


def _recipe(group: SeedGroup) -> str:
    first = group.first
    begun = "" if first.pretraining == "none" else f" from {first.pretraining}"
    return f"{first.recipe}, {counted(first.train_epochs or 0, 'epoch')}{begun}, n={group.seeds}"


def _difference(
    measured: float | None, published: float | None, form: str, *, scale: float = 1.0
) -> str:
    if measured is None or published is None:
        return ""
    return number(measured - published, form, scale=scale)
