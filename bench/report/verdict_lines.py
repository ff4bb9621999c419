"""The verdicts in a few words each: what stands first on the report page.

Owns the short forms; the numbers and the full sentences come from verdicts.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.analysis.uncertainty import Estimate
from bench.plain_text import one_line
from bench.report.report_table import ReportTable, table_of
from bench.report.verdict_inputs import AXES, Axis, axis_title
from bench.report.verdicts import AxisVerdict, MethodVerdict

NO_VERDICT = "no verdict"
OUTCOMES = ("better", "worse", "worse (dominated)", "not distinguishable", NO_VERDICT)


@dataclass(frozen=True, slots=True)
class ShortAnswer:
    """One axis in a few words: one of OUTCOMES, the gain and its interval in points (None where
    there is no number), and why there is no verdict."""

    axis: Axis
    outcome: str
    points: tuple[float, float, float] | None
    why: str

    @property
    def gain(self) -> str:
        """The gain and the ends of its interval, or nothing."""
        if self.points is None:
            return ""
        gain, low, high = self.points
        return f"{gain:+.2f} ({low:+.2f} to {high:+.2f})"

    @property
    def title(self) -> str:
        return axis_title(self.axis)


@dataclass(frozen=True, slots=True)
class VerdictLine:
    """One method: what it is called, a short answer for each axis, and the whole paragraph.

    `label` is the method and its variant; `settings` are those in which it differs from others of
    that label, or nothing.
    """

    method: str
    label: str
    settings: str
    backbone: str
    control: bool
    seeds: int
    images: int
    answers: tuple[ShortAnswer, ...]
    paragraph: str


def verdict_lines(verdicts: Sequence[MethodVerdict]) -> list[VerdictLine]:
    """Return a line for each verdict, methods first, then controls."""
    ordered = sorted(verdicts, key=lambda one: (one.control, one.label, one.settings))
    return [
        VerdictLine(
            method=one_line(verdict.method),
            label=verdict.label,
            settings=verdict.settings,
            backbone=one_line(verdict.backbone),
            control=verdict.control,
            seeds=verdict.seeds,
            images=verdict.images,
            answers=tuple(_short(verdict.on(axis)) for axis in AXES),
            paragraph=one_line(verdict.sentence, longest=20_000),
        )
        for verdict in ordered
    ]


def verdict_summary(lines: Sequence[VerdictLine]) -> list[str]:
    """Return a sentence for each axis: how many methods are better, worse and so on."""
    methods = [line for line in lines if not line.control]
    if not methods:
        return ["No method was run, so there is nothing to judge."]
    return [_summary(methods, number, axis) for number, axis in enumerate(AXES)]


def verdict_table(lines: Sequence[VerdictLine]) -> ReportTable:
    """Return one line per method and axis."""
    cells = [
        {
            "network": f"{line.label} {line.settings}".strip(),
            "backbone": line.backbone,
            "kind": "control" if line.control else "method",
            "at equal": answer.title,
            "verdict": answer.outcome,
            **_in_columns(answer),
            "note": answer.why,
            "seeds": str(line.seeds),
            "test images": str(line.images),
        }
        for line in lines
        for answer in line.answers
    ]
    caption = "Each network against the static curve at its own cost; Holm's rule decides."
    return table_of("verdicts", caption, cells)


def _summary(methods: Sequence[VerdictLine], number: int, axis: Axis) -> str:
    parts = []
    for name in OUTCOMES:
        found = [line for line in methods if line.answers[number].outcome == name]
        # A verdict on one training is one on networks, not yet on a method.
        single = sum(line.seeds == 1 for line in found) if name != NO_VERDICT else 0
        note = f" ({single} by one training)" if single else ""
        parts += [f"{len(found)} {name}{note}"] if found else []
    what = axis_title(axis)
    names = len({line.method for line in methods})
    of = "1 method" if names == 1 else f"{names} methods"
    if len(methods) > names:
        of = f"{len(methods)} settings of {of}"
    return f"At equal {what}, of {of}: {', '.join(parts)}."


def _short(answer: AxisVerdict) -> ShortAnswer:
    if answer.verdict is not None:
        gain = _gain(answer.verdict.comparison.gain)
        return ShortAnswer(answer.axis, answer.verdict.outcome, gain, one_line(answer.unlike))
    if answer.outside is not None:
        ratio = answer.outside.cost / answer.outside.nearest_cost
        nearest = one_line(answer.static[0]) if answer.static else "the nearest"
        kind = "MACs" if answer.axis == "macs" else "time"
        why = f"no static network of its cost; beside {nearest} at {ratio:.2f} times its {kind}"
        why += f"; {one_line(answer.unlike)}" if answer.unlike else ""
        return ShortAnswer(answer.axis, NO_VERDICT, _gain(answer.outside.gain), why)
    return ShortAnswer(answer.axis, NO_VERDICT, None, one_line(answer.reason))


def _in_columns(answer: ShortAnswer) -> dict[str, str]:
    numbers = answer.points or (None, None, None)
    texts = ["" if number is None else f"{number:+.2f}" for number in numbers]
    return dict(zip(("gain, points", "95 %, low", "95 %, high"), texts, strict=True))


def _gain(gain: Estimate) -> tuple[float, float, float]:
    low, high = gain.bounds
    return 100 * gain.value, 100 * low, 100 * high
