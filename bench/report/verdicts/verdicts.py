"""Is a method better than a static network of the same cost? The verdicts, on each axis of cost.

Owns which methods are judged together; the statistics are bench.analysis, the words words.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.analysis import verdict as judging
from bench.analysis.verdict import Comparison, Outside, Verdict
from bench.errors import RecordError
from bench.report.data.study import Network, Study
from bench.report.verdicts.costs import MACS, Axis, axes_of, beside, costs_on, with_costs

NO_VERDICT = "no verdict"


@dataclass(frozen=True, slots=True)
class AxisVerdict:
    """The answer on one axis: a verdict, or a difference to a network of another cost, or neither.

    Costs are shares of the MACs, or of the time, of the method's own backbone run whole. `reason`
    says why there is no verdict. `static` are the networks compared with.
    """

    axis: Axis
    network: Network
    found: Comparison | Outside | None = None
    verdict: Verdict | None = None
    reason: str = ""
    static: tuple[Network, ...] = ()

    @property
    def outside(self) -> Outside | None:
        """The difference to a network of another cost, where there is no verdict."""
        return self.found if self.verdict is None and isinstance(self.found, Outside) else None

    @property
    def outcome(self) -> str:
        return NO_VERDICT if self.verdict is None else self.verdict.outcome

    @property
    def static_names(self) -> tuple[str, ...]:
        """The backbones of the static networks."""
        return tuple(one.backbone for one in self.static)

    @property
    def points(self) -> tuple[float, float, float] | None:
        """The gain in points and the ends of its interval; None where there is no number."""
        if self.found is None:
            return None
        gain = self.found.gain
        return 100 * gain.value, 100 * gain.bounds.low, 100 * gain.bounds.high


@dataclass(frozen=True, slots=True)
class MethodVerdict:
    """What is found about one method: an answer on each axis."""

    network: Network
    axes: tuple[AxisVerdict, ...]

    @property
    def method(self) -> str:
        return self.network.first.method

    @property
    def seeds(self) -> int:
        return self.network.seeds

    def on(self, name: str, runtime: str | None = None) -> AxisVerdict:
        """Return the answer on the axis of that name, without a runtime on the first such axis.

        Raises:
            KeyError: there is none.
        """
        for found in self.axes:
            if found.axis.name == name and runtime in (None, found.axis.runtime):
                return found
        raise KeyError(f"{name} in {runtime}")


def verdicts_of(study: Study) -> list[MethodVerdict]:
    """Return a verdict on every method of the study that is no dense network.

    Methods on one data set are judged together on each axis, and their p-values are corrected for
    that by Holm's rule; controls are corrected among themselves.
    """
    dense = [network for network in study.networks if network.dense]
    judged = [network for network in study.networks if not network.dense]
    axes = axes_of(study.rows)
    answers = {
        (place, axis): _answer(network, dense, study, axis)
        for place, network in enumerate(judged)
        for axis in axes
    }
    together = defaultdict(list)
    for (place, axis), answer in answers.items():
        dataset, control = answer.network.record.spec.dataset, answer.network.control
        together[axis, dataset, control].append((place, axis))
    for members in together.values():
        verdicts = judging.decide([answers[one].found for one in members])
        for one, verdict in zip(members, verdicts, strict=True):
            if verdict is not None:
                answers[one] = replace(answers[one], verdict=verdict, reason="")
    return [
        MethodVerdict(network, tuple(answers[place, axis] for axis in axes))
        for place, network in enumerate(judged)
    ]


def _answer(network: Network, dense: Sequence[Network], study: Study, axis: Axis) -> AxisVerdict:
    """Return what is known before those that are judged together are decided."""
    comparable, of = beside(network, dense), network.record
    try:
        own = costs_on(network, study, axis=axis, of=of)
        if axis == MACS:
            placed = [(one, costs_on(one, study, axis=axis, of=of)) for one in comparable]
        else:
            placed = with_costs(comparable, study, axis=axis, of=of)
    except RecordError as error:
        return AxisVerdict(axis, network, reason=error.message)
    static = [runs for _, runs in placed]
    found = judging.compare(own, static, point=network.judged_position)
    if found is None:
        timed = axis != MACS and comparable
        reason = f"no static network was {'timed in the same rounds' if timed else 'run here'}"
        return AxisVerdict(axis, network, reason=reason)
    used = tuple(placed[number][0] for number in found.static)
    reason = "no static network of that cost was run" if isinstance(found, Outside) else ""
    return AxisVerdict(axis, network, found, reason=reason, static=used)
