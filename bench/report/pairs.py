"""Networks of about the same cost, two by two, on the same images.

Owns which pairs are worth comparing and how they are told; the statistics are bench.analysis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.analysis.statistics import McNemar, mcnemar
from bench.analysis.uncertainty import Array, Estimate, difference
from bench.analysis.verdict import holm
from bench.records.record import RunRecord
from bench.records.store import RunStore
from bench.report.report_table import ReportTable, table_of
from bench.report.verdict_inputs import Family, Unusable, families, in_macs, reader_of, same_test

SAME_COST = 1.1
"""Networks whose MACs differ by less than this ratio are compared."""


@dataclass(frozen=True, slots=True)
class Side:
    """One operating point of a pair; `macs` is its mean per image."""

    label: str
    method: str
    variant: str
    settings: str
    point: str
    backbone: str
    recipe: str
    seeds: int
    macs: float
    accuracy: float

    @property
    def name(self) -> str:
        parts = (self.label, self.point, "" if self.method != "resnet" else self.backbone)
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Pair:
    """Accuracy of `a` less that of `b`, the dearer first; `p_holm` is corrected for all pairs.

    `mcnemar` is the exact test on single images, None where a side has several seeds.
    """

    a: Side
    b: Side
    gain: Estimate
    mcnemar: McNemar | None
    p_holm: float


def pairs_of(records: Sequence[RunRecord], store: RunStore) -> list[Pair]:
    """Return the pairs of about the same MACs among finished runs, dearest first.

    Both sides were trained by one recipe and tested on the same images. Points of one run are not
    compared with each other.
    """
    read = reader_of(store)
    sides: list[tuple[Family, Side, Array]] = []
    for family in families(records):
        try:
            runs = in_macs(family, read, unit=1.0)
        except Unusable:
            continue
        for number, name in enumerate(family.point_names):
            side = _side(family, name, runs.cost_p[number], runs.accuracy_p[number])
            sides.append((family, side, runs.correct_spn[:, number]))
    sides.sort(key=lambda entry: (-entry[1].macs, entry[1].name))
    found = [
        _pair(a, b, a_sn, b_sn)
        for place, (one, a, a_sn) in enumerate(sides)
        for other, b, b_sn in sides[place + 1 :]
        if other is not one and a.macs < SAME_COST * b.macs and same_test(one, other)
    ]
    adjusted = holm([pair.gain.p_value for pair in found])
    return [replace(pair, p_holm=p) for pair, p in zip(found, adjusted, strict=True)]


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
        "accuracy of the first, dearer one less that of the second; with one seed on a side its "
        "interval covers images only. McNemar's test is exact, for one seed on both sides."
    )
    return table_of("pairs", caption, lines)


def _side(family: Family, point: str, macs: float, accuracy: float) -> Side:
    spec = family.first.spec
    return Side(
        label=family.label,
        method=spec.method,
        variant=family.first.variant,
        settings=family.apart,
        point=point,
        backbone=family.backbone,
        recipe=spec.budget.recipe,
        seeds=len(family.records),
        macs=float(macs),
        accuracy=float(accuracy),
    )


def _pair(a: Side, b: Side, a_sn: Array, b_sn: Array) -> Pair:
    alone = a.seeds == b.seeds == 1
    exact = mcnemar(a_sn[0].astype(np.bool_), b_sn[0].astype(np.bool_)) if alone else None
    return Pair(a, b, difference(a_sn, b_sn), exact, 1.0)
