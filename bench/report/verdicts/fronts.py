"""The probability of Pareto optimality of each network, and the area that the front encloses.

Networks of one recipe on the same images are resampled together, on each axis of cost. Owns which
networks meet and their tables; the resampling is bench.analysis.uncertainty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from bench.analysis.uncertainty import Runs, front_uncertainty
from bench.records.record import RunRecord
from bench.report.data.study import Network, Study
from bench.report.tables.cells import ReportTable, table_of
from bench.report.verdicts.costs import Axis, axes_of, with_costs

WORST_COST, WORST_ACCURACY = 1.0, 0.0
_SHOWN_FROM = 0.01


class FrontPoint(NamedTuple):
    """One operating point with the share of resampled repetitions in which nothing beats it.

    `cost` is relative to the dense network that the front is seen from.
    """

    label: str
    point: str
    backbone: str
    seeds: int
    cost: float
    accuracy: float
    probability: float


class Area(NamedTuple):
    """The hypervolume of some networks, with its 95 % interval."""

    networks: str
    points: int
    value: float
    low: float
    high: float


class FrontCertainty(NamedTuple):
    """The front of one recipe on one axis, by rising cost. `beside` is the backbone of cost 1."""

    axis: Axis
    recipe: str
    beside: str
    points: tuple[FrontPoint, ...]
    areas: tuple[Area, ...]


def front_certainties(study: Study) -> list[FrontCertainty]:
    """Return the fronts of finished runs that have anything to compare, by recipe and axis.

    Costs are relative to the largest backbone. A network without a cost on an axis is not on its
    front.
    """
    meeting: dict[tuple[object, ...], list[Network]] = defaultdict(list)
    for network in study.networks:
        spec = network.record.spec
        meeting[spec.budget.recipe, spec.dataset, network.record.test_images].append(network)
    found = []
    for _, members in sorted(meeting.items(), key=lambda entry: str(entry[0][0])):
        largest = max((one.record for one in members), key=lambda record: record.dense_macs)
        for axis in axes_of(study.rows):
            placed = with_costs(members, study, axis=axis, of=largest)
            if len(placed) > 1:
                found.append(_certainty(placed, axis=axis, beside=largest))
    return found


def _certainty(
    placed: Sequence[tuple[Network, Runs]], *, axis: Axis, beside: RunRecord
) -> FrontCertainty:
    every = [runs for _, runs in placed]
    dense = [runs for network, runs in placed if network.dense]
    fronts = {
        name: (
            sum(runs.points for runs in groups),
            front_uncertainty(groups, worst_cost=WORST_COST, worst_accuracy=WORST_ACCURACY),
        )
        for name, groups in (("dense networks", dense), ("all networks", every))
        if groups
    }
    probability_p = iter(fronts["all networks"][1].probability_p)
    points = [
        FrontPoint(
            *(network.label, name, network.backbone, network.seeds),
            *(float(cost), float(accuracy), next(probability_p)),
        )
        for network, runs in placed
        for name, cost, accuracy in zip(
            network.point_names, runs.cost_p, runs.accuracy_p, strict=True
        )
    ]
    points.sort(key=lambda point: (point.cost, -point.accuracy, point.label))
    recipe, backbone = beside.spec.budget.recipe, beside.spec.backbone.name
    areas = (Area(name, n, of.hypervolume, *of.bounds) for name, (n, of) in fronts.items())
    return FrontCertainty(axis, recipe, backbone, tuple(points), tuple(areas))


def front_table(found: Sequence[FrontCertainty]) -> ReportTable:
    """Return the points that are on a front in at least 1 % of the repetitions."""
    lines = [
        {
            "at equal": front.axis.title,
            "recipe": front.recipe,
            "network": f"{point.label} {point.point}".strip(),
            "backbone": point.backbone,
            "seeds": str(point.seeds),
            "relative cost": f"{point.cost:.3f}",
            "accuracy, %": f"{100 * point.accuracy:.2f}",
            "on the front, %": f"{100 * point.probability:.0f}",
        }
        for front in found
        for point in front.points
        if point.probability >= _SHOWN_FROM
    ]
    units = " or ".join(dict.fromkeys(front.beside for front in found))
    caption = (
        "Probability of Pareto optimality: the share of 2,000 repetitions, with images resampled, "
        "and training where there are several seeds, in which nothing is both cheaper and better. "
        f"Costs are relative to the dense {units}; below 1 % is left out."
    )
    return table_of("front", caption, lines)


def area_table(found: Sequence[FrontCertainty]) -> ReportTable:
    """Return the hypervolumes: of the dense networks, and of all."""
    lines = [
        {
            **{"at equal": front.axis.title, "recipe": front.recipe, "networks": area.networks},
            **{"points": str(area.points), "hypervolume": f"{area.value:.4f}"},
            **{"95 %, low": f"{area.low:.4f}", "95 %, high": f"{area.high:.4f}"},
        }
        for front in found
        for area in front.areas
    ]
    caption = (
        f"Area between the front and the corner (cost {WORST_COST:g}, accuracy "
        f"{WORST_ACCURACY:g}): what costs as much as the dense network adds nothing."
    )
    return table_of("hypervolume", caption, lines)
