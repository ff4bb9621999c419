"""The front that a sweep found: its settings, the area it encloses, and both as a chart.

Who is on the front is decided by held-out images, as all that a sweep chooses; how much the front
is worth is measured on test images, which had no part in that, so the best of many is not too good.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from bench.analysis.pareto import Point, front, hypervolume
from bench.analysis.uncertainty import FrontUncertainty, Runs, front_uncertainty
from bench.errors import RecordError
from bench.plain_text import counted
from bench.records.published import canonical_name
from bench.records.sweep import SweepRecord, TrialRow
from bench.report.data.study import Study
from bench.report.figures.chart import GREY, Chart, Legend, Line, Marks, Panel, Style, styles
from bench.report.verdicts.costs import MACS, Axis, costs_on
from bench.spaces import written

_WELL = frozenset({"finished", "recorded"})


class TriedSettings(NamedTuple):
    """Settings whose seeds have all ended well; `points` are means over the seeds, on held-out
    images."""

    method: str
    settings: dict[str, Any]
    runs: tuple[str, ...]
    points: tuple[Point, ...]

    def as_options(self) -> str:
        """Return the settings as `bench run` takes them."""
        pairs = (f"--set {name}={value}" for name, value in self.settings.items())
        return " ".join([f"--methods {self.method}", *pairs])


class OnFront(NamedTuple):
    """One operating point that no other beats on held-out images, and what it is on test images:
    None where that is not on record."""

    tried: TriedSettings
    point: Point
    on_test: Point | None


class SweepFront(NamedTuple):
    """`hypervolume` is that on held-out images; `worth` that of the same points on `test_images`,
    or None, with a reason, where those do not tell."""

    points: tuple[OnFront, ...]
    tried: tuple[TriedSettings, ...]
    corner: Point
    cost: str
    hypervolume: float
    worth: FrontUncertainty | None
    test_images: int
    reason: str

    def sentence(self) -> str:
        """Say what the front is worth."""
        of = f"{counted(len(self.points), 'point')} among {len(self.tried)} tried settings"
        said = f"Front of {of}: hypervolume "
        if self.worth is None:
            return f"{said}{self.hypervolume:.4f} on held-out images"
        low, high = self.worth.bounds
        return f"{said}{self.worth.hypervolume:.4f}, 95 % {low:.4f} to {high:.4f}"

    def notes(self) -> list[str]:
        """Say how the hypervolume and its interval come about."""
        cost, accuracy = self.corner
        held_out = f"{self.hypervolume:.4f} on the held-out images that chose the front"
        corner = f"area to the corner ({self.cost} {cost:g}, accuracy {accuracy:g})"
        if self.worth is None:
            return [f"{corner}; no interval: {self.reason}"]
        return [
            f"{corner}, of the same points on {self.test_images:,} test images ({held_out})",
            "interval: 2,000 repetitions with test images resampled, seeds too where there are "
            "several; with one seed it does not cover training",
        ]


def sweep_front(sweep: SweepRecord, study: Study) -> SweepFront | None:
    """Return the front of a sweep; None where nothing ended well.

    `study` holds the records of the sweep.
    """
    tried = _tried(sweep.trials)
    if not tried:
        return None
    listed = [(one, index, point) for one in tried for index, point in enumerate(one.points)]
    chosen = [listed[place] for place in front([point for *_, point in listed])]
    points = [point for *_, point in chosen]
    cost, accuracy = sweep.corner
    axis = Axis(1, sweep.runtime) if sweep.runtime else MACS
    worth, images, reason = None, 0, ""
    on_test: list[Point | None] = [None] * len(chosen)
    try:
        groups = [_on_test(one, index, study, axis) for one, index, _ in chosen]
        worth = front_uncertainty(groups, worst_cost=cost, worst_accuracy=accuracy)
        images = groups[0].images
        on_test = [(float(g.cost_p[0]), float(g.accuracy_p[0])) for g in groups]
    except RecordError as error:
        reason = error.message
    return SweepFront(
        tuple(OnFront(one, point, t) for (one, _, point), t in zip(chosen, on_test, strict=True)),
        tuple(tried),
        sweep.corner,
        f"ms in {sweep.runtime} / dense ms" if sweep.runtime else "nFLOPs",
        hypervolume(points, worst_cost=cost, worst_accuracy=accuracy),
        *(worth, images, reason),
    )


def _tried(trials: Sequence[TrialRow]) -> list[TriedSettings]:
    by_settings: dict[str, list[TrialRow]] = defaultdict(list)
    for trial in trials:
        by_settings[f"{trial.method} {written(trial.settings)}"].append(trial)
    found = []
    for same in by_settings.values():
        if all(trial.status in _WELL and trial.points for trial in same):
            of_points = (
                zip(*of, strict=True) for of in zip(*(t.points for t in same), strict=False)
            )
            means = tuple((fmean(costs), fmean(accuracies)) for costs, accuracies in of_points)
            runs = tuple(trial.run for trial in same)
            found.append(TriedSettings(same[0].method, same[0].settings, runs, means))
    return found


def _on_test(tried: TriedSettings, index: int, study: Study, axis: Axis) -> Runs:
    """Return accuracy and cost of one operating point on test images.

    Raises:
        RecordError: they are not on record.
    """
    same = [n for n in study.networks if {record.run for record in n.records} == set(tried.runs)]
    if not same:
        what = f"{tried.method} {written(tried.settings)}"
        raise RecordError(f"the records of {what} are not available")
    runs = costs_on(same[0], study, axis=axis, of=same[0].record)
    if runs.points != len(tried.points):
        raise RecordError(f"{tried.method} has other operating points on test images")
    only = slice(index, index + 1)
    return Runs(runs.correct_spn[:, only], runs.cost_spn[:, only], runs.cost_se_p[only])


def front_lines(found: SweepFront) -> list[str]:
    """Return the points of a front as options to copy, by rising cost, and what they are worth."""
    lines = [found.sentence(), *found.notes()]
    for one in found.points:
        cost, accuracy = one.point
        test = "" if one.on_test is None else f"; test {100 * one.on_test[1]:.2f} %"
        place = f"{cost:.3f} at {100 * accuracy:.2f} %{test}"
        lines.append(f"{place}: {one.tried.as_options()}")
    return lines


def front_chart(sweep: SweepRecord, found: SweepFront) -> Chart:
    """Return all settings of a sweep and its front, on held-out images."""
    methods = tuple(dict.fromkeys(one.method for one in found.tried))
    known, name = styles(methods), "Pareto front"
    costs, heights = zip(*((p.point[0], 100 * p.point[1]) for p in found.points), strict=True)
    series: list[Line | Marks] = [Line(costs, heights, GREY, name=name, steps=True)]
    first = [(one.tried, one.point) for one in found.points]
    for method in methods:
        mine = [(one, point) for one in found.tried if one.method == method for point in one.points]
        style = known[canonical_name(method)]
        series.append(_marks([p for p in mine if p not in first], style, size=6, opacity=0.35))
        series.append(_marks([p for p in mine if p in first], style, name=method))
    y_label = "accuracy on held-out images, %"
    return Chart(
        title=found.sentence(),
        panels=(Panel(series=tuple(series), x_label=found.cost, y_label=y_label),),
        notes=tuple(found.notes()),
        alt=f"Accuracy against {found.cost}. {found.sentence()}.",
        legends=(Legend(sweep.options.get("search") or "sweep", (name, *methods)),),
    )


def _marks(placed: Sequence[tuple[TriedSettings, Point]], style: Style, **more: Any) -> Marks:
    costs = tuple(cost for _, (cost, _) in placed)
    heights = tuple(100 * accuracy for _, (_, accuracy) in placed)
    tips = tuple(written(one.settings) for one, _ in placed)
    return Marks(costs, heights, style, tips=tips, **more)
