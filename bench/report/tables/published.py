"""Comparison with the paper: published, measured, difference, and by which recipe.

Owns which of our networks stands beside which published line; says so where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.records.published import PublishedPoint, canonical_name
from bench.report.data.groups import Group
from bench.report.tables.cells import ReportTable, table_of

PAPER = "SGAD arXiv 1807.01430"
_NOT_RUN = "not run"


def paper_table(published: Sequence[PublishedPoint], groups: Sequence[Group]) -> ReportTable:
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


def other_papers(published: Sequence[PublishedPoint], groups: Sequence[Group]) -> ReportTable:
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
        "accuracy %": _number(None if point.accuracy is None else 100 * point.accuracy, 2),
        "nFLOPs": _number(point.nflops, 3),
        "MMACs": _number(None if point.macs is None else point.macs / 1e6, 2),
        "source": point.source,
        "note": point.note,
    }


def _ours(point: PublishedPoint, groups: Sequence[Group]) -> list[Group | None]:
    backbone, method = canonical_name(point.backbone), canonical_name(point.method)
    same = [g for g in groups if canonical_name(g.first.backbone) == backbone]
    if method == "resnet":
        return [group for group in same if group.dense]
    wanted = set(_words(point.variant))
    return [
        group
        for group in same
        if canonical_name(group.first.method) == method
        and wanted <= set(_words(group.first.variant))
    ]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _line(point: PublishedPoint, group: Group | None) -> dict[str, str]:
    nflops = None if group is None else group.mean_of("nflops")
    accuracy = None if group is None else 100 * group.accuracy
    theirs = None if point.accuracy is None else 100 * point.accuracy
    return {
        "backbone": point.backbone,
        "network": f"{point.method} {point.variant}",
        "accuracy %, published": _number(theirs, 2),
        "measured": _accuracy(group),
        "difference, points": _difference(accuracy, theirs, 2),
        "nFLOPs, published": _number(point.nflops, 2),
        "nFLOPs, measured": _number(nflops, 3),
        "nFLOPs, difference": _difference(nflops, point.nflops, 3),
        "our network": _NOT_RUN if group is None else group.label,
        "our recipe": "" if group is None else _recipe(group),
        "note of the paper": point.note,
    }


def _accuracy(group: Group | None) -> str:
    if group is None:
        return ""
    spread = group.accuracy_sd
    return f"{100 * group.accuracy:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def _recipe(group: Group) -> str:
    first = group.first
    epochs = "1 epoch" if first.train_epochs == 1 else f"{first.train_epochs} epochs"
    begun = "" if first.pretraining == "none" else f" from {first.pretraining}"
    return f"{first.recipe}, {epochs}{begun}, n={group.seeds}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _difference(measured: float | None, published: float | None, digits: int) -> str:
    if measured is None or published is None:
        return ""
    return f"{measured - published:+.{digits}f}"
