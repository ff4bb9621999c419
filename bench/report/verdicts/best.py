"""The best setting of each method beside static networks of its cost: the first table of a report
and of the README. Owns the choice and the table; the numbers come with the verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.analysis.verdict import Comparison
from bench.report.tables.cells import ReportTable, number, percent_with_sd, table_of
from bench.report.verdicts.costs import MACS
from bench.report.verdicts.verdicts import AxisVerdict, MethodVerdict
from bench.report.verdicts.words import OTHER_BUDGET, answer_words

SHOWN_RUNTIMES = 2


def best_settings(verdicts: Sequence[MethodVerdict]) -> list[MethodVerdict]:
    """Return of each method, and then of each control, the setting with the largest gain at equal
    MACs, the best first; of one whose settings all have no verdict, the most accurate."""
    best: dict[str, MethodVerdict] = {}
    for one in sorted(verdicts, key=_merit, reverse=True):
        best.setdefault(one.method, one)
    return sorted(best.values(), key=lambda one: one.network.control)


def _merit(one: MethodVerdict) -> tuple[bool, float]:
    answer = one.on(MACS.name)
    if answer.verdict is None:
        return False, one.network.mean_of("accuracy") or 0.0
    return True, answer.verdict.comparison.gain.value


def best_table(verdicts: Sequence[MethodVerdict]) -> ReportTable:
    """Return a line for each of `best_settings`. All numbers of a line are of the same comparison:
    of several operating points, means and ranges over the costs at which both sides were run."""
    best = best_settings(verdicts)
    runtimes = dict.fromkeys(a.axis.runtime for one in best for a in one.axes if a.axis.runtime)
    lines = []
    for one in best:
        line = {
            "method": f"{one.network.label}{' (control)' if one.network.control else ''}",
            "seeds": str(one.seeds),
            "accuracy, %": _accuracy(one),
            "MACs / dense": _costs(one.on(MACS.name)) or number(one.network.mean_of("nflops")),
            "at equal MACs, points": answer_words(one.on(MACS.name)),
        }
        for runtime in list(runtimes)[:SHOWN_RUNTIMES]:
            answer = one.on("time at batch 1", runtime)
            where = answer.axis.title.removeprefix("time at batch 1")
            line[f"speed-up{where}"] = _speed_up(answer)
            line[f"at equal time{where}"] = answer_words(answer)
        lines.append(line)
    caption = (
        "The best setting of each method and control, and its gain in accuracy over static "
        "networks of the same cost, with its 95 % interval; times at batch 1. Of several operating "
        f"points the mean over their range. {OTHER_BUDGET}: static networks of another budget."
    )
    more = ", ".join(list(runtimes)[SHOWN_RUNTIMES:])
    return table_of("overview", caption, lines, notes=(more and f"also timed in {more}: below",))


def _accuracy(one: MethodVerdict) -> str:
    """Return the accuracy that is compared at equal MACs; over seeds with its deviation."""
    network, found = one.network, one.on(MACS.name).found
    if isinstance(found, Comparison) and found.costs.high > found.costs.low:
        return f"{100 * found.accuracy:.2f}, mean"
    if found is None or len(network.point_names) == 1:
        sd = network.accuracy_sd if len(network.point_names) == 1 else None
        return percent_with_sd(network.accuracy, sd)
    return f"{100 * found.accuracy:.2f}"


def _costs(answer: AxisVerdict) -> str:
    """Return the costs at which it is compared, relative to the dense network."""
    if answer.found is None:
        return ""
    return " to ".join(dict.fromkeys(f"{cost:.3f}" for cost in answer.found.costs))


def _speed_up(answer: AxisVerdict) -> str:
    if answer.found is None:
        ratio = answer.network.mean_time("speedup", 1, answer.axis.runtime)
        return "" if ratio is None else f"{ratio:.2f}x"
    return " to ".join(dict.fromkeys(f"{1 / cost:.2f}x" for cost in answer.found.costs))
