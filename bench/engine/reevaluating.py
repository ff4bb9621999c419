"""A finished run measured again from its weights: its record gets what it did not hold before.

Owns when a second measurement counts as the same as the first, and which fields it may fill; what
is measured, and how, is evaluating.py's business. Numbers that are on record stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bench.engine.building import Workplace, rebuild
from bench.engine.evaluating import (
    Measured,
    Subject,
    measure,
    position_arrays,
    positions_file,
    subject_of,
)
from bench.errors import RecordError
from bench.method import Point
from bench.records.arrays import Arrays, bits_in, numbers_in, read_arrays
from bench.records.record import PointRecord, RunRecord
from bench.records.store import save_arrays

SAME_SHARE = 0.1
"""An image runs the same if it runs every unit as much as before, to this share of the unit: one
decision by image is a whole unit, one of the 64 positions in the smallest maps at most 0.08."""

EXCUSED = 256
"""One image in this many may differ: other hardware rounds otherwise where a decision is near."""

_FILLED = (
    "equivalence",
    "dynamics",
    "accuracy_held_out",
    "nflops_held_out",
    "block_gradients",
    "block_gradients_reason",
)
_FRESH = "Run it again with --fresh."


def evaluate_again(record: RunRecord, place: Workplace) -> RunRecord:
    """Return the record with what was missing, saved; all that it held is as it was.

    Raises:
        RecordError: the run is not finished, lacks its arrays, or does not come out as recorded.
        WeightsError: the run's weights are missing or broken.
    """
    if record.status != "finished" or not record.points:
        raise RecordError(f"The run {record.run} is not finished.", hint="Run it first.")
    place.reporter.run_started(record.run)
    points = rebuild(record, place)
    subject = subject_of(record.spec, place, points[0].net)
    if record.unit_macs and record.unit_macs != subject.costs.units:
        raise RecordError(
            f"The units of {record.run} have other MACs than on record: its method has changed.",
            hint=_FRESH,
        )
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
    different = _different_images(arrays, measured)
    if different:
        _check_excused(different, record, subject)
    fields: dict[str, object] = {name: getattr(measured.record, name) for name in _FILLED}
    if not before.positions_file:
        # By the costs on record, so that these are the images that a report shows.
        macs_n = numbers_in(arrays, "macs_n", axes=1)
        positions = position_arrays(point.net, macs_n, subject)
        if positions:
            file = positions_file(number)
            # First, so that a kill in between leaves a file that nobody names.
            save_arrays(folder, file, positions)
            fields["positions_file"] = file
    return fields


def _different_images(arrays: Arrays, measured: Measured) -> int:
    """Return how many images are right or wrong otherwise, or run something else, than before."""
    new = measured.arrays
    executed_nu = numbers_in(arrays, "executed_nu", axes=2)
    if executed_nu.shape != new["executed_nu"].shape:
        raise RecordError("Its arrays have another shape than its network.", hint=_FRESH)
    moved_n = np.abs(executed_nu - new["executed_nu"]).max(axis=1) > SAME_SHARE
    images = len(executed_nu)
    turned_n = bits_in(arrays, "correct_bits", count=images) != bits_in(
        new, "correct_bits", count=images
    )
    return int((moved_n | turned_n).sum())


def _check_excused(different: int, record: RunRecord, subject: Subject) -> None:
    images = len(subject.place.dataset.test)
    if different > images / EXCUSED:
        raise RecordError(
            f"{record.run} does not come out as recorded: {different:,} of {images:,} images run "
            f"something else or are classified otherwise, more than one in {EXCUSED}. Nothing was "
            "changed.",
            hint="Use the device and the versions that its record names, or run it again with "
            "'bench run --fresh' and its options.",
        )
    subject.place.reporter.note(
        f"{record.run}: {different:,} of {images:,} images come out otherwise here, as decisions "
        "near a threshold do on other hardware; the numbers on record stay."
    )


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
