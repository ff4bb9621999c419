"""A finished run measured again from its weights: its record gets what it did not hold before.

Owns which fields a second measurement may fill; what counts as the same as the first is
decisions.py's business, what is measured, and how, evaluating.py's. Numbers that are on record stay
as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.engine.building import Workplace
from bench.engine.decisions import answers_in, check_same, compared, rebuilt_as_recorded
from bench.engine.evaluating import (
    Subject,
    measure,
    position_arrays,
    positions_file,
    subject_of,
)
from bench.errors import RecordError
from bench.method import Point
from bench.records.arrays import numbers_in, read_arrays
from bench.records.record import PointRecord, RunRecord
from bench.records.store import save_arrays

_FILLED = (
    "equivalence",
    "dynamics",
    "accuracy_held_out",
    "nflops_held_out",
    "block_gradients",
    "block_gradients_reason",
)


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
    subject = subject_of(record.spec, place, points[0].net)
    found = [
        _again(number, point, before, record, subject)
        for number, (point, before) in enumerate(zip(points, record.points, strict=True))
    ]
    return place.store.amend(record.run, lambda now: _filled(now, found))


def _again(
    number: int, point: Point, before: PointRecord, record: RunRecord, subject: Subject
) -> Mapping[str, object]:
    """Return the fields found of one operating point; maps of positions are written already."""
    folder = subject.place.store.folder_of(record)
    arrays = read_arrays(folder, before.arrays_file)
    measured = measure(number, point, subject)
    units = [unit.name for unit in point.net.units()]
    found = compared(answers_in(arrays), answers_in(measured.arrays), units)
    check_same(record, found)
    if found.different:
        subject.place.reporter.note(
            f"{record.run}: {found} here, as decisions near a threshold do on other hardware; "
            "the numbers on record stay."
        )
    fields: dict[str, object] = {name: getattr(measured.record, name) for name in _FILLED}
    if not before.positions_file:
        # By the costs on record, so that these are the images that a report shows.
        macs_n = numbers_in(arrays, "macs_n", axes=1)
        positions = position_arrays(point.net, macs_n, subject)
        if positions:
            file = positions_file(number)
            # First, so that a kill in between leaves a file that no record names.
            save_arrays(folder, file, positions)
            fields["positions_file"] = file
    return fields


def _filled(record: RunRecord, found: Sequence[Mapping[str, object]]) -> RunRecord:
    """Return the record with those fields filled in that hold nothing yet."""
    points = []
    for point, fields in zip(record.points, found, strict=True):
        missing = {name: value for name, value in fields.items() if _is_open(point, name)}
        points.append(point.model_copy(update=missing))
    return record.model_copy(update={"points": tuple(points)})


def _is_open(point: PointRecord, name: str) -> bool:
    nothing = PointRecord.model_fields[name].get_default(call_default_factory=True)
    return bool(getattr(point, name) == nothing)
