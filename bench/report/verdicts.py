"""Is a method better than a static network of the same cost? The verdicts, and their sentences.

Owns which methods are judged together and what is said; the numbers come from bench.analysis, and
how records become numbers is verdict_inputs.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.analysis.uncertainty import Runs
from bench.analysis.verdict import (
    LEVEL,
    Comparison,
    Outside,
    Verdict,
    can_be_judged,
    compare,
    decide,
)
from bench.records.record import RunRecord
from bench.records.store import RunStore
from bench.report.verdict_inputs import (
    AXES,
    Axis,
    Family,
    ReadArrays,
    Unusable,
    costs_on,
    families,
    of_its_budget,
    reader_of,
)
from bench.report.verdict_words import Told, accuracy_words, context, told, unlike_budgets

Statics = Literal["dense", "dense and static controls"]


@dataclass(frozen=True, slots=True)
class AxisVerdict:
    """The answer on one axis: a verdict, or a difference to a network of another cost, or neither.

    Costs are shares of the MACs, or of the time, of the method's own backbone run whole. `reason`
    says why there is no verdict. `static` names the networks compared with, `static_seeds` their
    seeds, `static_dense_epochs` their training, None where the start's is not known, `unlike` how
    their budget differs from the method's.
    """

    axis: Axis
    verdict: Verdict | None = None
    outside: Outside | None = None
    reason: str = ""
    static: tuple[str, ...] = ()
    static_seeds: tuple[int, ...] = ()
    static_dense_epochs: tuple[float | None, ...] = ()
    unlike: str = ""
    sentence: str = ""


@dataclass(frozen=True, slots=True)
class MethodVerdict:
    """All that is said about one method, in numbers and as a text of a few sentences.

    `label` is the method and its variant, `settings` what tells it from others of that label.
    `accuracies` has one text for each operating point.
    """

    label: str
    settings: str
    method: str
    variant: str
    dataset: str
    backbone: str
    recipe: str
    control: bool
    seeds: int
    images: int
    dense_epochs: float | None
    accuracies: tuple[str, ...]
    axes: tuple[AxisVerdict, ...]
    sentence: str

    def on(self, axis: Axis) -> AxisVerdict:
        """Return the answer on `axis`."""
        return next(found for found in self.axes if found.axis == axis)


@dataclass(frozen=True, slots=True)
class _Answer:
    """One method on one axis, before the methods are judged together."""

    axis: Axis
    found: Comparison | Outside | None
    reason: str
    statics: tuple[Family, ...]


def judge(
    records: Sequence[RunRecord],
    store: RunStore,
    *,
    statics: Statics = "dense",
    level: float = LEVEL,
) -> list[MethodVerdict]:
    """Return a verdict on every method among `records` that is no dense network.

    Methods on one data set are judged together on each axis, and their p-values are corrected for
    that by Holm's rule; controls are corrected among themselves. With `statics` "dense and static
    controls", networks such as the static projection are part of the static curve as well.
    """
    read = reader_of(store)
    found = families(records)
    judged = [family for family in found if not family.dense]
    answers = {
        (number, axis): _answer(
            family,
            [other for other in found if _is_static(other, statics) and other is not family],
            read,
            axis=axis,
            level=level,
        )
        for number, family in enumerate(judged)
        for axis in AXES
    }
    verdicts = _decided(judged, answers, level=level)
    return [
        _method_verdict(family, [(answers[n, a], verdicts.get((n, a))) for a in AXES])
        for n, family in enumerate(judged)
    ]


def _is_static(family: Family, statics: Statics) -> bool:
    return family.dense or (statics != "dense" and family.static)


def _answer(
    family: Family,
    statics: Sequence[Family],
    read: ReadArrays,
    *,
    axis: Axis,
    level: float,
) -> _Answer:
    comparable = of_its_budget(family, statics)
    try:
        own = costs_on(family, read, axis=axis, of=family.first)
        placed = _placed(comparable, read, axis=axis, of=family.first)
    except Unusable as error:
        return _Answer(axis, None, str(error), ())
    found = compare(own, [runs for _, runs in placed], level=level)
    reason = ""
    if found is None:
        timed = axis != "macs" and comparable
        reason = f"no static network was {'timed in the same rounds' if timed else 'run here'}"
    return _Answer(axis, found, reason, tuple(other for other, _ in placed))


def _placed(
    statics: Sequence[Family], read: ReadArrays, *, axis: Axis, of: RunRecord
) -> list[tuple[Family, Runs]]:
    """Return the static networks that have a cost on this axis, with it."""
    found = []
    for other in statics:
        try:
            found.append((other, costs_on(other, read, axis=axis, of=of)))
        except Unusable:
            if axis == "macs":
                raise
    return found


def _decided(
    judged: Sequence[Family], answers: dict[tuple[int, Axis], _Answer], *, level: float
) -> dict[tuple[int, Axis], Verdict]:
    """Return the verdicts; those on one axis, data set and kind of network are made at once."""
    together: dict[tuple[object, ...], dict[tuple[int, Axis], Comparison | Outside]]
    together = defaultdict(dict)
    for (number, axis), answer in answers.items():
        if answer.found is not None and can_be_judged(answer.found):
            family = judged[number]
            members = together[axis, family.first.spec.dataset, family.control]
            members[number, axis] = answer.found
    found: dict[tuple[int, Axis], Verdict] = {}
    for members in together.values():
        verdicts = decide(list(members.values()), level=level)
        pairs = zip(members, verdicts, strict=True)
        found.update({key: verdict for key, verdict in pairs if verdict is not None})
    return found


def _method_verdict(
    family: Family, answers: Sequence[tuple[_Answer, Verdict | None]]
) -> MethodVerdict:
    about = [_told_of(family, answer, verdict) for answer, verdict in answers]
    axes = tuple(_axis_verdict(one) for one in about)
    spec = family.first.spec
    accuracies = tuple(accuracy_words(family, name) for name in family.point_names)
    reached = f": {accuracies[0]}" if len(accuracies) == 1 else ""
    start = f"{family.label} ({family.backbone}, {spec.dataset.name}){reached}."
    parts = [start, *(axis.sentence for axis in axes), context(family, about)]
    return MethodVerdict(
        label=family.title,
        settings=family.apart,
        method=spec.method,
        variant=family.first.variant,
        dataset=spec.dataset.name,
        backbone=family.backbone,
        recipe=spec.budget.recipe,
        control=family.control,
        seeds=len(family.records),
        images=family.first.test_images,
        dense_epochs=family.total,
        accuracies=accuracies,
        axes=axes,
        sentence=" ".join(parts),
    )


def _told_of(family: Family, answer: _Answer, verdict: Verdict | None) -> Told:
    outside = answer.found if verdict is None and isinstance(answer.found, Outside) else None
    used = () if answer.found is None else answer.found.static
    static = tuple(answer.statics[number] for number in used)
    reason = "no static network of that cost was run" if outside is not None else answer.reason
    return Told(answer.axis, verdict, outside, reason, family, static)


def _axis_verdict(about: Told) -> AxisVerdict:
    return AxisVerdict(
        axis=about.axis,
        verdict=about.verdict,
        outside=about.outside,
        reason=about.reason,
        static=tuple(one.label if one.control else one.backbone for one in about.static),
        static_seeds=tuple(len(one.records) for one in about.static),
        static_dense_epochs=tuple(one.total for one in about.static),
        unlike=unlike_budgets(about),
        sentence=told(about),
    )
