"""Networks of about the same cost, two by two, on the same images.

Owns which pairs are worth comparing and their table; the statistics are bench.analysis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.analysis.statistics import McNemar, mcnemar
from bench.analysis.uncertainty import Array, Estimate, difference
from bench.analysis.verdict import holm
from bench.report.data.groups import Family
from bench.report.data.study import Study, Unusable
from bench.report.tables.cells import ReportTable, table_of
from bench.report.verdicts.costs import in_macs, same_images

SAME_COST = 1.1
"""Networks whose MACs differ by less than this ratio are compared."""


@dataclass(frozen=True, slots=True)
class Side:
    """One operating point of a pair; `macs` is its mean per image."""

    family: Family
    point: str
    macs: float
    accuracy: float
    correct_sn: Array

    @property
    def name(self) -> str:
        family = self.family
        parts = (family.label, self.point, family.backbone if family.dense else "")
        return " ".join(part for part in parts if part)

    @property
    def seeds(self) -> int:
        return len(self.family.records)

    @property
    def recipe(self) -> str:
        return self.family.rows[0].recipe


@dataclass(frozen=True, slots=True)
class Pair:
    """Accuracy of `a` less that of `b`, the more expensive first; `p_holm` is corrected for all
    pairs. `mcnemar` is the exact test on single images, None where a side has several seeds."""

    a: Side
    b: Side
    gain: Estimate
    mcnemar: McNemar | None
    p_holm: float


def pairs_of(study: Study) -> list[Pair]:
    """Return the pairs of about the same MACs among finished runs, most expensive first.

    Both sides were trained by one recipe and tested on the same images. Points of one run are not
    compared with each other.
    """
    sides: list[Side] = []
    for family in study.families:
        try:
            runs = in_macs(family, study, unit=1.0)
        except Unusable:
            continue
        for n, name in enumerate(family.point_names):
            cost, accuracy = float(runs.cost_p[n]), float(runs.accuracy_p[n])
            sides.append(Side(family, name, cost, accuracy, runs.correct_spn[:, n]))
    sides.sort(key=lambda side: (-side.macs, side.name))
    found = [
        _pair(a, b)
        for place, a in enumerate(sides)
        for b in sides[place + 1 :]
        if a.macs < SAME_COST * b.macs and _comparable(a, b)
    ]
    adjusted = holm([pair.gain.p_value for pair in found])
    return [replace(pair, p_holm=p) for pair, p in zip(found, adjusted, strict=True)]


def _comparable(a: Side, b: Side) -> bool:
    one, other = a.family, b.family
    return one is not other and a.recipe == b.recipe and same_images(one, other)


def _pair(a: Side, b: Side) -> Pair:
    exact = None
    if a.seeds == b.seeds == 1:
        exact = mcnemar(a.correct_sn[0].astype(np.bool_), b.correct_sn[0].astype(np.bool_))
    return Pair(a, b, difference(a.correct_sn, b.correct_sn), exact, 1.0)


def pairs_table(found: Sequence[Pair]) -> ReportTable:
    """Return one line per pair."""
    lines = [
        {
            "network": pair.a.name,
            "beside": pair.b.name,
            "MACs, ratio": f"{pair.a.macs / pair.b.macs:.3f}",
            "seeds": f"{pair.a.seeds} and {pair.b.seeds}",
            "difference, points": f"{100 * pair.gain.value:+.2f}",
            "95 %, low": f"{100 * pair.gain.bounds.low:+.2f}",
            "95 %, high": f"{100 * pair.gain.bounds.high:+.2f}",
            "p, Holm": f"{pair.p_holm:.2g}",
            "only one right": ""
            if pair.mcnemar is None
            else f"{pair.mcnemar.only_a} and {pair.mcnemar.only_b}",
            "p, McNemar": "" if pair.mcnemar is None else f"{pair.mcnemar.p_value:.2g}",
        }
        for pair in found
    ]
    caption = (
        f"Networks whose MACs differ by less than {SAME_COST - 1:.0%}. The difference is the "
        "accuracy of the first, more expensive one less that of the second; with one seed on a "
        "side its interval covers images only. McNemar's test is exact, for one seed on both sides."
    )
    return table_of("pairs", caption, lines)
