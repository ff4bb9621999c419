"""Networks of about the same cost, two by two, on the same images.

Owns which pairs are worth comparing and their table; the statistics are bench.analysis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.analysis.statistics import Array
from bench.analysis.uncertainty import Estimate, difference
from bench.analysis.verdict import holm
from bench.errors import RecordError
from bench.report.data.study import Network, Study
from bench.report.tables.cells import ReportTable, table_of
from bench.report.verdicts.costs import in_macs, same_images

SAME_COST = 1.1
"""Networks whose MACs differ by less than this ratio are compared."""


@dataclass(frozen=True, slots=True)
class Side:
    """One operating point of a pair; `macs` is its mean per image."""

    network: Network
    name: str
    macs: float
    correct_sn: Array


@dataclass(frozen=True, slots=True)
class Pair:
    """Accuracy of `a` less that of `b`, the more expensive first, image by image; `p_holm` is
    corrected for all pairs."""

    a: Side
    b: Side
    gain: Estimate
    p_holm: float = 1.0


def pairs_of(study: Study) -> list[Pair]:
    """Return the pairs of about the same MACs among finished runs, most expensive first.

    Both sides were trained by one recipe and tested on the same images. Points of one run are not
    compared with each other.
    """
    sides = [side for network in study.networks for side in _sides(network, study)]
    sides.sort(key=lambda side: (-side.macs, side.name))
    found = []
    for place, a in enumerate(sides, start=1):
        for b in sides[place:]:
            if a.macs >= SAME_COST * b.macs:
                break
            one, other = a.network, b.network
            alike = one.first.recipe == other.first.recipe and same_images(one, other)
            if alike and one is not other:
                found.append(Pair(a, b, difference(a.correct_sn, b.correct_sn)))
    adjusted = holm([pair.gain.p_value for pair in found])
    return [replace(pair, p_holm=p) for pair, p in zip(found, adjusted, strict=True)]


def _sides(network: Network, study: Study) -> list[Side]:
    try:
        runs = in_macs(network, study, unit=1.0)
    except RecordError:
        return []
    backbone = network.backbone if network.dense else ""
    return [
        Side(
            network,
            " ".join(filter(None, (network.label, point, backbone))),
            float(runs.cost_p[n]),
            runs.correct_spn[:, n],
        )
        for n, point in enumerate(network.point_names)
    ]


def pairs_table(found: Sequence[Pair]) -> ReportTable:
    """Return one line per pair."""
    lines = [
        {
            "network": pair.a.name,
            "beside": pair.b.name,
            "MACs, ratio": f"{pair.a.macs / pair.b.macs:.3f}",
            "seeds": f"{pair.a.network.seeds} and {pair.b.network.seeds}",
            "difference, points": f"{100 * pair.gain.value:+.2f}",
            "95 %, low": f"{100 * pair.gain.bounds.low:+.2f}",
            "95 %, high": f"{100 * pair.gain.bounds.high:+.2f}",
            "p, Holm": f"{pair.p_holm:.2g}",
        }
        for pair in found
    ]
    caption = (
        f"Networks whose MACs differ by less than {SAME_COST - 1:.0%}. The difference is the "
        "accuracy of the first, more expensive one less that of the second, on the same images; "
        "with one seed on a side its interval covers images only."
    )
    return table_of("pairs", caption, lines)
