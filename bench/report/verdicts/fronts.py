"""The probability of Pareto optimality of each network.

Networks of one recipe on the same images are resampled together, on each axis of cost. Owns which
networks meet and their table; the resampling is bench.analysis.uncertainty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

from bench.analysis.uncertainty import Runs, front_uncertainty
from bench.records.record import RunRecord
from bench.report.data.study import Network, Study
from bench.report.tables.cells import ReportTable, table_of
from bench.report.verdicts.costs import Axis, axes_of, with_costs

_SHOWN_FROM = 0.01


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
