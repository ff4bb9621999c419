"""The finding of a Pareto plot as one sentence about all of its networks: where their 95 % bars lie
beside the line through the static networks of their budget. It takes rows alone; the verdicts,
which a report quotes instead, pair images and correct for many comparisons.
"""

from __future__ import annotations

from collections import Counter

from bench.config import ladder_of
from bench.plain_text import counted
from bench.report.data.budgets import of_its_budget
from bench.report.pareto.data import ParetoData, Placed, static_curve

ABOVE, BELOW, LEVEL, BEYOND = "above", "below", "level", "beyond"


def pareto_finding(data: ParetoData) -> str:
    """Return how many networks lie above, below and on the static curve."""
    dynamic = [p for p in data.placed if not (p.group.dense or p.group.control)]
    if not data.placed:
        return "No finished runs to compare yet"
    methods = counted(len({p.group.first.method for p in dynamic}), "method")
    networks = f"{counted(len(dynamic), 'network')} of {methods}"
    if not dynamic:
        return f"{counted(len(data.placed), 'network')} and no dynamic one: nothing to compare"
    dense = [p for p in data.placed if p.group.dense]
    if not dense:
        return f"{networks} and no static one to compare with"
    found = Counter(beside_static(placed, dense) for placed in dynamic)
    text = f"{networks}: {found[ABOVE] or 'none'} above the static curve, {found[BELOW]} below"
    text += f", {found[LEVEL]} level with it (95 % intervals)"
    return text + (f"; {found[BEYOND]} without a static one of that cost" if found[BEYOND] else "")


def beside_static(placed: Placed, dense: list[Placed]) -> str:
    """Return where a network lies beside the dense ones of its ladder and budget: `above`, `below`
    or `level`, or `beyond` where they cost more or less and do not dominate it."""
    ladder = ladder_of(placed.backbone)
    own = of_its_budget(placed, [p for p in dense if ladder_of(p.backbone) == ladder])
    if not own:
        return BEYOND
    curve, (low, high) = static_curve(own), placed.bar
    if curve.covers(placed.cost):
        there = curve.at(placed.cost)
        return ABOVE if low > there else BELOW if high < there else LEVEL
    dominated = placed.cost > curve.range.high and high < max(p.accuracy for p in own)
    return BELOW if dominated else BEYOND
