"""Whether today's code still decides as a run did; and runs measured again, to fill their records.

Owns what counts as the same, the words for what has changed since, and which fields a second
measurement may fill. Numbers that are on record stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.config import RunSpec
from bench.engine.building import Workplace, rebuild
from bench.engine.evaluating import (
    RandomBatches,
    RunContext,
    context_of,
    measure,
    save_positions,
)
from bench.errors import RecordError, RunFailed
from bench.measure.cost import unit_macs
from bench.measure.modes import evaluating
from bench.method import METHODS, DynamicNet, Point
from bench.plugins import code_of
from bench.records.arrays import Arrays, bits_in, numbers_in, read_arrays
from bench.records.record import PointRecord, RunRecord

SAME_SHARE = 0.1
"""An image runs the same if it runs every unit as much as before, to this share of the unit: one
decision by image is a whole unit, one of the 64 positions in the smallest maps at most 0.08."""

EXCUSED = 256
"""One image in this many may differ: other hardware rounds otherwise where a decision is near."""

_UNITS_SHOWN = 4
_FRESH = "run it again with 'bench run --fresh' and its options."


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What images ran and whether they were classified rightly: (N, U) and (N,) bool."""

    executed_nu: npt.NDArray[Any]
    correct_n: npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """How many of `images` run something else or are classified otherwise, and in which units."""

    different: int
    images: int
    units: tuple[str, ...]

    @property
    def is_excused(self) -> bool:
        return self.different <= self.images / EXCUSED

    def __str__(self) -> str:
        more = len(self.units) - _UNITS_SHOWN
        units = ", ".join(self.units[:_UNITS_SHOWN]) + f" and {more} more" * (more > 0)
        said = f"{self.different:,} of {self.images:,} images run something else or are classified"
        return f"{said} otherwise" + f" ({units})" * bool(units)


def rebuilt_as_recorded(record: RunRecord, place: Workplace) -> list[Point]:
    """Return the operating points of a finished run, as `rebuild`, if they still are what ran.

    Each decides about some hundred test images, and is compared with what is on record.

    Raises:
        RecordError: units, decisions or answers are others; the message says which, and whether
            the code of the method has changed.
        WeightsError: the run's weights are missing or broken.
    """
    points = rebuild(record, place)
    _check_units(record, points[0].net)
    batch = next(iter(RandomBatches(place.dataset.test.to(place.device), record.spec)))
    index_n = batch.index_n.cpu().numpy()
    units = [unit.name for unit in points[0].net.units()]
    different = 0
    for point, before in zip(points, record.points, strict=True):
        with evaluating(point.net):
            output = point.net(batch.x_nchw)
        right_n = output.logits.argmax(dim=1) == batch.labels_n
        now = Answers(output.executed.float().cpu().numpy(), right_n.cpu().numpy())
        recorded = answers_in(read_arrays(place.store.folder_of(record), before.arrays_file))
        found = compared(recorded, now, units, index_n=index_n)
        check_same(record, found)
        different = max(different, found.different)
    if _has_changed(record):
        place.reporter.note(
            f"{_since(record)} It decides and classifies {len(index_n) - different} of "
            f"{len(index_n)} images as it did."
        )
    return points


def answers_in(arrays: Arrays) -> Answers:
    """Return the answers that the arrays of an operating point hold."""
    executed_nu = numbers_in(arrays, "executed_nu", axes=2)
    return Answers(executed_nu, bits_in(arrays, "correct_bits", count=len(executed_nu)))


def compared(
    before: Answers, now: Answers, units: Sequence[str], *, index_n: npt.NDArray[Any] | None = None
) -> Difference:
    """Return how `now` differs from `before`, of which it holds the images `index_n`, or all.

    Raises:
        RecordError: the arrays on record have another shape.
    """
    index_n = np.arange(len(before.correct_n)) if index_n is None else index_n
    expected = (len(before.correct_n), len(units))
    if before.executed_nu.shape != expected or len(now.correct_n) != len(index_n):
        raise RecordError("Its arrays have another shape than its network.", hint=_FRESH)
    moved_nu = np.abs(before.executed_nu[index_n] - now.executed_nu) > SAME_SHARE
    turned_n = before.correct_n[index_n] != now.correct_n
    count_u = moved_nu.sum(axis=0)
    changed = [units[u] for u in np.argsort(-count_u, kind="stable") if count_u[u]]
    different = int((moved_nu.any(axis=1) | turned_n).sum())
    return Difference(different, len(index_n), tuple(changed))


def check_same(record: RunRecord, found: Difference) -> None:
    """Check that no more differs than other hardware explains.

    Raises:
        RecordError: more does; the message says what may be the reason.
    """
    if found.is_excused:
        return
    raise RecordError(
        f"{record.run} does not come out as recorded: {found}, more than one in {EXCUSED}. "
        f"{_since(record)} Nothing was changed.",
        hint=f"Go back to the code, device and versions of that run, or {_FRESH}",
    )


def check_code(spec: RunSpec) -> None:
    """Check that the code of a run that is to be done is the code that it was planned with.

    Raises:
        RunFailed: it was changed in between.
    """
    if code_of(spec.method) != (spec.method, spec.method_version, spec.method_code):
        raise RunFailed(
            f"The code of '{spec.method}' was changed after {spec.run} was planned.",
            hint="Give the command again.",
        )


def note_changes(spec: RunSpec, found: RunRecord | None, place: Workplace) -> None:
    """Say where a run that was `found` has older code, or why one with other code was not found."""
    if found is not None:
        if _has_changed(found):
            place.reporter.note(f"{_since(found)} Its version has not: the run counts.")
        return
    earlier = _of_other_code(spec, place)
    if earlier is not None:
        what = f"The code of '{spec.method}' has changed since the run {earlier.run}"
        place.reporter.note(f"{what}: it is run anew.")


def _of_other_code(spec: RunSpec, place: Workplace) -> RunRecord | None:
    """Return the youngest finished run that differs from `spec` in the code of its method alone."""
    if (spec.method_version, spec.method_code) == (1, ""):
        return None  # a built-in's first code: no need to read the records of a thousand trials
    code = {"method_version": spec.method_version, "method_code": spec.method_code}
    store, found = place.store, list[RunRecord]()
    for name in store.names():
        if name != spec.run and name.startswith(spec.run.removesuffix(spec.key)):
            with suppress(RecordError):
                found.append(store.load(name))
    same = [r for r in found if r.status == "finished" and r.spec.model_copy(update=code) == spec]
    return max(same, key=lambda record: record.created, default=None)


def _check_units(record: RunRecord, net: DynamicNet) -> None:
    now = unit_macs(net)
    before = record.unit_macs
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if record.unit_macs and names:
        raise RecordError(
            f"{record.run} does not come out as recorded: other units or MACs "
            f"({', '.join(names[:_UNITS_SHOWN])}). {_since(record)}",
            hint=f"Go back to the code of that run, or {_FRESH}",
        )


def _has_changed(record: RunRecord) -> bool:
    return record.code != METHODS.code(record.spec.method)


def _since(record: RunRecord) -> str:
    what = f"The code of '{record.spec.method}'"
    if _has_changed(record):
        return f"{what} has changed since {record.run} ({record.created[:10]})."
    return f"{what} is the same."


_FILLED = {
    *("equivalence", "dynamics", "accuracy_held_out", "nflops_held_out"),
    *("block_gradients", "block_gradients_reason"),
}


def evaluate_again(record: RunRecord, place: Workplace) -> RunRecord:
    """Return the record with what was missing, saved; all that it held is as it was.

    Raises:
        RecordError: the run is not finished, lacks its arrays, or does not come out as recorded.
        WeightsError: the run's weights are missing or broken.
    """
    if record.status != "finished" or not record.points:
        raise RecordError(f"The run {record.run} is not finished.", hint="Run it first.")
    place.reporter.run_started(record.run)
    points = rebuilt_as_recorded(record, place)
    context = context_of(record.spec, place, points[0].net)
    found = [
        _again(number, point, before, record, context)
        for number, (point, before) in enumerate(zip(points, record.points, strict=True))
    ]
    return place.store.amend(record.run, lambda now: _filled(now, found))


def _again(
    number: int, point: Point, before: PointRecord, record: RunRecord, context: RunContext
) -> Mapping[str, object]:
    """Return the fields found of one operating point; maps of positions are written already."""
    folder = context.place.store.folder_of(record)
    arrays = read_arrays(folder, before.arrays_file)
    measured, now = measure(number, point, context)
    units = [unit.name for unit in point.net.units()]
    found = compared(answers_in(arrays), answers_in(now), units)
    check_same(record, found)
    if found.different:
        context.place.reporter.note(
            f"{record.run}: {found} here, as decisions near a threshold do on other hardware; "
            "the numbers on record stay."
        )
    fields: dict[str, object] = {name: getattr(measured, name) for name in _FILLED}
    if not before.positions_file:
        # By the costs on record, so that these are the images that a report shows.
        macs_n = numbers_in(arrays, "macs_n", axes=1)
        # First, so that a kill in between leaves a file that no record names.
        fields["positions_file"] = save_positions(number, point.net, macs_n, context)
    return fields


def _filled(record: RunRecord, found: Sequence[Mapping[str, object]]) -> RunRecord:
    """Return the record with those fields filled in that hold nothing yet."""
    points = [
        point.model_copy(update={n: v for n, v in fields.items() if not getattr(point, n)})
        for point, fields in zip(record.points, found, strict=True)
    ]
    return record.model_copy(update={"points": tuple(points)})
