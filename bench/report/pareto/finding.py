"""The finding of a Pareto plot as one sentence, made of the measured numbers and nothing else."""

from __future__ import annotations

from operator import attrgetter

from bench.report.pareto.data import ParetoData, Placed

_KEEPS_WITHIN = 0.005
"""A network that loses less than half a point "keeps" the accuracy of the dense one."""


def pareto_finding(data: ParetoData) -> str:
    """Return the cheapest dynamic network within half a point of the dense one, or the most
    accurate cheaper one, and any static network or control that does at least as well for no more.
    """
    dense = data.dense
    if not data.placed:
        return "No finished runs to compare yet"
    dynamic = [p for p in data.placed if not (p.group.dense or p.group.control)]
    if dense is None:
        best = max(dynamic or data.placed, key=attrgetter("by_accuracy"))
        return f"{best.group.label} reaches {_reached(data, best)}"
    cheaper = [p for p in dynamic if p.cost < dense.cost]
    if not cheaper:
        what = "faster" if data.x == "latency_ms" else "cheaper"
        rest = f"no dynamic network is {what}" if dynamic else "no dynamic network was run"
        return f"dense {data.reference} {_reached(data, dense)}; {rest}"
    close = [p for p in cheaper if p.accuracy >= dense.accuracy - _KEEPS_WITHIN]
    best = max(cheaper, key=attrgetter("by_accuracy"))
    if close:
        best = min(close, key=attrgetter("by_cost"))
    verb, anchor = "keeps" if close else "reaches", f"dense {data.reference} {_percent(dense)}"
    text = f"{best.group.label} {verb} {_reached(data, best)}; {anchor}"
    as_good = [
        p
        for p in data.placed
        if (p.group.dense or p.group.control)
        and p.cost <= best.cost
        and p.accuracy >= best.accuracy
    ]
    if not as_good:
        return text
    other = max(as_good, key=attrgetter("by_accuracy"))
    name = other.backbone if other.group.dense else other.group.label
    return f"{text}, but {name} {_reached(data, other)}"


def _percent(placed: Placed) -> str:
    return f"{100 * placed.accuracy:.1f} %"


def _reached(data: ParetoData, placed: Placed) -> str:
    cost = {
        "nflops": f"at {placed.cost:.2f} of the MACs",
        "macs": f"at {placed.cost:.1f} M MACs",
        "latency_ms": f"in {placed.cost:.2f} ms",
    }
    return f"{_percent(placed)} {cost[data.x]}"
