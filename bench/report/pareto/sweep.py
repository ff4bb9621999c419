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
from bench.report.figures.chart import GREY, Chart, Line, Marks, Panel, styles
from bench.report.verdicts.costs import MACS, costs_on
from bench.spaces import written

_WELL = frozenset({"finished", "recorded"})


class Tried(NamedTuple):
    """One operating point of settings whose seeds have all ended well: `point` is the mean over the
    seeds on held-out images, at position `place` among `number` points of these `runs`."""

    method: str
    settings: dict[str, Any]
    runs: frozenset[str]
    place: int
    number: int
    point: Point

    def as_options(self) -> str:
        """Return the settings as `bench run` takes them."""
        pairs = (f"--set {name}={value}" for name, value in self.settings.items())
        return " ".join([f"--methods {self.method}", *pairs])


class SweepFront(NamedTuple):
    """`points` are those of `tried` that no other beats on held-out images, and `hypervolume` is
    their area there. `worth` is that of the same points on test images, and `on_test` what they are
    there; None and nothing, with a reason, where those do not tell."""

    points: list[Tried]
    tried: list[Tried]
    corner: Point
    on_test: list[Runs]
    worth: FrontUncertainty | None
    reason: str

    @property
    def hypervolume(self) -> float:
        cost, accuracy = self.corner
        return hypervolume([o.point for o in self.points], worst_cost=cost, worst_accuracy=accuracy)

    def sentence(self) -> str:
        """Say what the front is worth."""
        settings = len({one.runs for one in self.tried})
        of = f"{counted(len(self.points), 'point')} among {settings} tried settings"
        said = f"Front of {of}: hypervolume "
        if self.worth is None:
            return f"{said}{self.hypervolume:.4f} on held-out images"
        low, high = self.worth.bounds
        return f"{said}{self.worth.hypervolume:.4f}, 95 % {low:.4f} to {high:.4f}"

    def notes(self) -> list[str]:
        """Say how the hypervolume and its interval come about."""
        cost, accuracy = self.corner
        held_out = f"{self.hypervolume:.4f} on the held-out images that chose the front"
        corner = f"area to the corner (nFLOPs {cost:g}, accuracy {accuracy:g})"
        if self.worth is None:
            return [f"{corner}; no interval: {self.reason}"]
        return [
            f"{corner}, of the same points on {self.on_test[0].images:,} test images ({held_out})",
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
    chosen = [tried[place] for place in front([one.point for one in tried])]
    cost, accuracy = sweep.corner
    on_test: list[Runs] = []
    worth, reason = None, ""
    try:
        on_test = [_on_test(one, study) for one in chosen]
        worth = front_uncertainty(on_test, worst_cost=cost, worst_accuracy=accuracy)
    except RecordError as error:
        reason = error.message
    return SweepFront(chosen, tried, sweep.corner, on_test, worth, reason)


def _tried(trials: Sequence[TrialRow]) -> list[Tried]:
    by_settings: dict[str, list[TrialRow]] = defaultdict(list)
    for trial in trials:
        by_settings[f"{trial.method} {written(trial.settings)}"].append(trial)
    found = []
    for first, *others in by_settings.values():
        same = [first, *others]
        if not all(trial.status in _WELL and trial.points for trial in same):
            continue
        runs, of_seeds = frozenset(trial.run for trial in same), [trial.points for trial in same]
        number = min(map(len, of_seeds))
        for place, seeds in enumerate(zip(*of_seeds, strict=False)):
            costs, accuracies = zip(*seeds, strict=True)
            point = fmean(costs), fmean(accuracies)
            found.append(Tried(first.method, first.settings, runs, place, number, point))
    return found


def _on_test(tried: Tried, study: Study) -> Runs:
    """Return accuracy and cost of one operating point on test images.

    Raises:
        RecordError: they are not on record.
    """
    same = [n for n in study.networks if {record.run for record in n.records} == tried.runs]
    if not same:
        what = f"{tried.method} {written(tried.settings)}"
        raise RecordError(f"the records of {what} are not available")
    runs = costs_on(same[0], study, axis=MACS, of=same[0].record)
    if runs.points != tried.number:
        raise RecordError(f"{tried.method} has other operating points on test images")
    only = slice(tried.place, tried.place + 1)
    return Runs(runs.correct_spn[:, only], runs.cost_spn[:, only], runs.cost_se_p[only])


def front_lines(found: SweepFront) -> list[str]:
    """Return the points of a front as options to copy, by rising cost, and what they are worth."""
    lines = [found.sentence(), *found.notes()]
    tests = [f"; test {100 * float(of.accuracy_p[0]):.2f} %" for of in found.on_test]
    for place, one in enumerate(found.points):
        cost, accuracy = one.point
        test = tests[place] if tests else ""
        lines.append(f"{cost:.3f} at {100 * accuracy:.2f} %{test}: {one.as_options()}")
    return lines


def front_chart(found: SweepFront) -> Chart:
    """Return all settings of a sweep and its front, on held-out images."""
    known = styles(one.method for one in found.tried)
    series: list[Line | Marks] = [
        Line(*_places(found.points), GREY, name="Pareto front", steps=True)
    ]
    for method in dict.fromkeys(one.method for one in found.tried):
        mine, style = [o for o in found.tried if o.method == method], known[canonical_name(method)]
        rest, best = ([o for o in mine if (o in found.points) is on] for on in (False, True))
        series.append(Marks(*_places(rest), style, tips=_tips(rest), size=6, opacity=0.35))
        series.append(Marks(*_places(best), style, method, tips=_tips(best)))
    y_label = "accuracy on held-out images, %"
    panel = Panel(series=tuple(series), x_label="nFLOPs", y_label=y_label)
    return Chart(title=found.sentence(), panels=(panel,), notes=tuple(found.notes()))


def _places(tried: Sequence[Tried]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(one.point[0] for one in tried), tuple(100 * one.point[1] for one in tried)


def _tips(tried: Sequence[Tried]) -> tuple[str, ...]:
    return tuple(written(one.settings) for one in tried)
