"""Networks beside each other: the probability of Pareto optimality of each, and those of about the
same cost two by two.

Owns which networks of one recipe meet, on the same images, and the tables; the resampling and the
intervals are bench.analysis.uncertainty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import NamedTuple

from bench.analysis.statistics import Array
from bench.analysis.uncertainty import Estimate, Runs, difference, front_uncertainty
from bench.analysis.verdict import holm
from bench.errors import RecordError
from bench.records.record import RunRecord
from bench.report.data.study import Network, Study
from bench.report.tables.cells import ReportTable, table_of
from bench.report.verdicts.costs import Axis, axes_of, in_macs, same_images, with_costs

_SHOWN_FROM = 0.01
SAME_COST = 1.1
"""Networks whose MACs differ by less than this ratio are compared."""


class FrontPoint(NamedTuple):
    """One operating point with the share of resampled repetitions in which nothing of its recipe
    beats it on one axis. `cost` is relative to the dense `beside`."""

    axis: Axis
    recipe: str
    beside: str
    label: str
    point: str
    backbone: str
    seeds: int
    cost: float
    accuracy: float
    probability: float


def front_points(study: Study) -> list[FrontPoint]:
    """Return the points of finished runs that have anything to compare, by recipe, axis and cost.

    Costs are relative to the largest backbone. A network without a cost on an axis is not on its
    front.
    """
    meeting: dict[tuple[object, ...], list[Network]] = defaultdict(list)
    for network in study.networks:
        spec = network.record.spec
        meeting[spec.budget.recipe, spec.dataset, network.record.test_images].append(network)
    found: list[FrontPoint] = []
    for _, members in sorted(meeting.items(), key=lambda entry: str(entry[0][0])):
        largest = max((one.record for one in members), key=attrgetter("dense_macs"))
        for axis in axes_of(study.rows):
            placed = with_costs(members, study, axis=axis, of=largest)
            if len(placed) > 1:
                points = _points(placed, axis=axis, beside=largest)
                found += sorted(points, key=lambda p: (p.cost, -p.accuracy, p.label))
    return found


def _points(
    placed: Sequence[tuple[Network, Runs]], *, axis: Axis, beside: RunRecord
) -> Iterator[FrontPoint]:
    every = [runs for _, runs in placed]
    of_all = front_uncertainty(every, worst_cost=1.0, worst_accuracy=0.0)
    probability_p = iter(of_all.probability_p)
    recipe, dense = beside.spec.budget.recipe, beside.spec.backbone.name
    for network, runs in placed:
        for name, cost, accuracy in zip(
            network.point_names, runs.cost_p.tolist(), runs.accuracy_p.tolist(), strict=True
        ):
            known = (network.label, name, network.backbone, network.seeds)
            yield FrontPoint(axis, recipe, dense, *known, cost, accuracy, next(probability_p))


def front_table(found: Sequence[FrontPoint]) -> ReportTable:
    """Return the points that are on a front in at least 1 % of the repetitions."""
    lines = [
        {
            "at equal": point.axis.title,
            "recipe": point.recipe,
            "network": f"{point.label} {point.point}".strip(),
            "backbone": point.backbone,
            "seeds": str(point.seeds),
            "relative cost": f"{point.cost:.3f}",
            "accuracy, %": f"{100 * point.accuracy:.2f}",
            "on the front, %": f"{100 * point.probability:.0f}",
        }
        for point in found
        if point.probability >= _SHOWN_FROM
    ]
    units = " or ".join(dict.fromkeys(point.beside for point in found))
    caption = (
        "Probability of Pareto optimality: the share of 2,000 repetitions, with images resampled, "
        "and training where there are several seeds, in which nothing is both cheaper and better. "
        f"Costs are relative to the dense {units}; below 1 % is left out."
    )
    return table_of("front", caption, lines)


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
