"""The tables of verdicts: the best settings first, which a report and the README begin with, and
all of them. Owns which are the best; the numbers come with the verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from bench.report.tables.cells import ReportTable, number, percent_with_sd, table_of
from bench.report.verdicts.costs import MACS
from bench.report.verdicts.verdicts import NO_VERDICT, MethodVerdict
from bench.report.verdicts.words import OTHER_BUDGET, answer_words, why

MOST_SHOWN, CONTROLS_SHOWN = 10, 2
_BEST_FIRST = ("better", "not distinguishable", "worse", NO_VERDICT)


def best_settings(verdicts: Sequence[MethodVerdict]) -> list[MethodVerdict]:
    """Return the best setting of each method and then of the strongest controls, ten at most.

    Best is who has the better verdict at equal MACs, of equal ones the larger gain; without a
    verdict, the higher accuracy.
    """
    best: dict[str, MethodVerdict] = {}
    for one in sorted(verdicts, key=_rank):
        best.setdefault(one.method, one)
    controls = [one for one in best.values() if one.network.control][:CONTROLS_SHOWN]
    methods = [one for one in best.values() if not one.network.control]
    return [*methods[: MOST_SHOWN - len(controls)], *controls]


def _rank(one: MethodVerdict) -> tuple[int, float]:
    answer = one.on(MACS.name)
    decided = answer.verdict
    reached = one.network.judged.accuracy if decided is None else decided.comparison.gain.value
    return _BEST_FIRST.index(answer.outcome.removesuffix(" (dominated)")), -reached


def rest_in_words(verdicts: Sequence[MethodVerdict]) -> str:
    """Return how many methods and controls are not among the best settings, and which; or ''."""
    shown = {one.method for one in best_settings(verdicts)}
    rest = sorted({one.method for one in verdicts} - shown)
    return f"{len(rest)} more: {', '.join(rest)}" if rest else ""


def fastest_runtime(verdicts: Sequence[MethodVerdict]) -> str:
    """Return the runtime in which dense networks take the least time at batch 1; "" if untimed.

    There a speed-up has to be real: nothing is gained from the overhead of the dense network.
    """

    def dense_ms(runtime: str) -> float:
        found = (one.network.judged.mean_time("dense_ms", 1, runtime) for one in verdicts)
        return median([ms for ms in found if ms is not None] or [math.inf])

    times = (a.axis for one in verdicts for a in one.axes if a.axis.batch_size == 1)
    return min(dict.fromkeys(axis.runtime for axis in times), key=dense_ms, default="")


def best_table(verdicts: Sequence[MethodVerdict]) -> ReportTable:
    """Return a line for each of `best_settings`, at the operating point that verdicts are on."""
    best, runtime = best_settings(verdicts), fastest_runtime(verdicts)
    where = f", {runtime}" if runtime else ""
    lines = []
    for one in best:
        judged, answer = one.network.judged, one.on("time at batch 1", runtime)
        ratio = number(judged.mean_time("speedup", 1, runtime))
        lines.append(
            {
                "method": f"{judged.label}{' (control)' if judged.control else ''}",
                "accuracy, %": percent_with_sd(judged.accuracy, judged.accuracy_sd),
                "MACs / dense": number(judged.mean_of("nflops"), ".3f"),
                "at equal MACs, points": answer_words(one.on(MACS.name)),
                f"speed-up{where}": ratio and f"{ratio}x",
                f"at equal time{where}": answer_words(answer),
                "seeds": str(one.seeds),
            }
        )
    caption = (
        "The best setting of each method, and of the two strongest controls, by the verdict at "
        "equal MACs: its gain in accuracy over static networks of the same cost, with its 95 % "
        "interval; times at batch 1 in the runtime in which the dense network is fastest. Of "
        "several operating points the cheapest within a point of the most accurate, on held-out "
        f"images. {OTHER_BUDGET}: static networks of another budget."
    )
    others = dict.fromkeys(a.axis.runtime for one in best for a in one.axes if a.axis.runtime)
    more = ", ".join(other for other in others if other != runtime)
    timed = more and f"also timed in {more}: below"
    return table_of("overview", caption, lines, notes=(rest_in_words(verdicts), timed))


def verdict_table(verdicts: Sequence[MethodVerdict]) -> ReportTable:
    """Return one line per method and axis."""
    lines = []
    for one, answer in ((found, answer) for found in verdicts for answer in found.axes):
        gain, low, high = (f"{end:+.2f}" for end in answer.points) if answer.points else ("",) * 3
        lines.append(
            {
                "network": one.network.judged.label,
                "backbone": one.network.backbone,
                "kind": "control" if one.network.control else "method",
                "at equal": answer.axis.title,
                "verdict": answer.outcome,
                **{"gain, points": gain, "95 %, low": low, "95 %, high": high},
                "note": why(answer),
                "seeds": str(one.seeds),
                "test images": str(one.network.record.test_images),
            }
        )
    caption = "Each network against the static curve at its own cost; Holm's rule decides."
    return table_of("verdicts", caption, lines)
