"""The finding of a Pareto plot as one sentence, made of the measured numbers and nothing else."""

from __future__ import annotations

from operator import attrgetter

from bench.report.pareto.data import ParetoData, Placed

_KEEPS_WITHIN = 0.005
"""A network that loses less than half a point "keeps" the accuracy of the dense one."""


def pareto_finding(data: ParetoData) -> str:
    """Return the finding as one sentence, made of the measured numbers and nothing else.

    It names the cheapest dynamic network within half a point of the dense one, or the most
    accurate cheaper one, and any static network or control that does at least as well for no more.
    """
    dense = data.dense
    if not data.placed:
        return "No finished runs to compare yet"
    dynamic = [p for p in data.placed if not (p.group.dense or p.group.control)]
    if dense is None:
        best = max(dynamic or data.placed, key=attrgetter("by_accuracy"))
        return f"{best.group.label} reaches {best.percent} {data.cost_in_words(best)}"
    cheaper = [p for p in dynamic if p.cost < dense.cost]
    anchor = f"dense {data.reference} {dense.percent}"
    if not cheaper:
        what = "faster" if data.x == "latency_ms" else "cheaper"
        rest = f"no dynamic network is {what}" if dynamic else "no dynamic network was run"
        return f"{anchor} {data.cost_in_words(dense)}; {rest}"
    floor = dense.group.accuracy - _KEEPS_WITHIN
    close = [p for p in cheaper if p.group.accuracy >= floor]
    verb = "keeps" if close else "reaches"
    best = (
        min(close, key=attrgetter("by_cost"))
        if close
        else max(cheaper, key=attrgetter("by_accuracy"))
    )
    text = f"{best.group.label} {verb} {best.percent} {data.cost_in_words(best)}; {anchor}"
    return text + _beaten_by(data, best)


def _beaten_by(data: ParetoData, best: Placed) -> str:
    """Name the static network or control that costs no more and is no less accurate, if any."""
    judges = [
        p
        for p in data.placed
        if (p.group.dense or p.group.control)
        and p.cost <= best.cost
        and p.group.accuracy >= best.group.accuracy
    ]
    if not judges:
        return ""
    other = max(judges, key=attrgetter("by_accuracy"))
    name = other.backbone if other.group.dense else other.group.label
    return f", but {name} {other.percent} {data.cost_in_words(other)}"
