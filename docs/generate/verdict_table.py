"""The table of verdicts in README.md, from the reference results."""

from __future__ import annotations

from pathlib import Path

from bench.analysis.uncertainty import Estimate
from bench.records.store import RunStore
from bench.report.data.study import Study
from bench.report.verdicts.verdicts import AxisVerdict, MethodVerdict, verdicts_of

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
_ROWS = 10
_TITLES = (
    *("method", "seeds", "accuracy, %", "MACs / ResNet-32"),
    *("at equal MACs, points", "at equal time, batch 1"),
)


def best_verdicts(results_dir: Path = REFERENCE) -> list[MethodVerdict]:
    """Return the ten best at equal MACs, of each method and control its best setting."""
    store = RunStore(results_dir)
    best: dict[str, MethodVerdict] = {}
    for found in sorted(verdicts_of(Study(store.load_all().records, store)), key=_place):
        best.setdefault(found.method, found)
    return list(best.values())[:_ROWS]


def verdict_table(results_dir: Path = REFERENCE) -> str:
    """Return them as a Markdown table."""
    lines = [_TITLES, ("---",) * len(_TITLES), *map(_line, best_verdicts(results_dir))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _place(found: MethodVerdict) -> tuple[bool, float]:
    decided = found.on("macs").verdict
    return decided is None, 0.0 if decided is None else -decided.comparison.gain.value


def _line(found: MethodVerdict) -> tuple[str, ...]:
    control = "control" if found.network.control else ""
    words = ", ".join(filter(None, (f"`{found.method}`", _variant(found), control)))
    accuracy, cost = _accuracy_and_cost(found.on("macs"))
    return (words, str(found.seeds), accuracy, cost, *map(_answer, found.axes[:2]))


def _variant(found: MethodVerdict) -> str:
    return ", ".join(part for part in (found.network.variant, found.network.apart) if part)


def _accuracy_and_cost(axis: AxisVerdict) -> tuple[str, str]:
    if axis.verdict is not None:
        found = axis.verdict.comparison
        low, high = found.costs
        cost = f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}, mean"
        return f"{100 * found.accuracy:.2f}", cost
    if axis.outside is not None:
        return f"{100 * axis.outside.accuracy:.2f}", f"{axis.outside.cost:.3f}"
    return "", ""


def _answer(axis: AxisVerdict) -> str:
    if axis.verdict is not None:
        return f"{axis.verdict.outcome}: {_points(axis.verdict.comparison.gain)}"
    if axis.outside is not None:
        (nearest,) = axis.static_names
        ratio = axis.outside.cost / axis.outside.nearest_cost
        return f"no verdict at {ratio:.2f} times {nearest}"
    return axis.reason


def _points(gain: Estimate) -> str:
    low, high = gain.bounds
    return f"{100 * gain.value:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
