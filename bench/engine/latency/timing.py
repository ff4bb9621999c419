"""Latency of finished runs: networks rebuilt, timed together, cells added to their records.

Owns which networks meet in one measurement: all operating points that share data and normalisation,
each against the dense network of its backbone. Who measures is processes.py; how time is taken is
bench.measure.latency's business.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bench.engine.building import Workplace, dense_net
from bench.engine.decisions import rebuilt_as_recorded
from bench.engine.evaluating import first_images
from bench.engine.latency.processes import Cells, LatencyJob, measure, subject_name
from bench.errors import BenchError, PluginError, RecordError
from bench.measure.latency.profiles import PROFILES
from bench.measure.latency.rounds import Progress, Setup
from bench.plain_text import counted
from bench.records.arrays import save_arrays
from bench.records.record import LatencyCell, PointRecord, RunRecord
from bench.runtimes.contract import RUNTIMES
from bench.training.reporter import Reporter

LATENCY_IMAGES = 1024


def time_records(
    records: Sequence[RunRecord],
    place: Workplace,
    *,
    profile: str,
    batch_sizes: Sequence[int] = (),
    threads: int = 1,
    runtimes: Sequence[str] = (),
) -> dict[str, RunRecord]:
    """Return the records, by run, with the new cells added and saved; older cells stay.

    Cells are saved when a runtime is done. Without names, all runtimes that take the dense network
    on this machine are measured, and without `batch_sizes` those of the profile.

    Raises:
        UnknownNameError: there is no such runtime.
    """
    chosen = PROFILES[profile]
    sizes = tuple(batch_sizes) or chosen.batch_sizes
    groups: dict[tuple[object, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        groups[record.spec.dataset.fingerprint, record.spec.normalisation].append(record)
    timed: dict[str, RunRecord] = {}
    for members in groups.values():
        images = first_images(members[0].spec, place, count=LATENCY_IMAGES)
        setup = Setup(images, chosen, place.device, sizes, threads)
        count = sum(len(record.points) for record in members)
        named = _runtimes_for(runtimes, members[0], place, threads=threads)
        backbones = sorted({record.spec.backbone.name for record in members})
        place.reporter.note(
            f"Timing {counted(count, 'network')} against the dense {' and '.join(backbones)} "
            f"in {' and '.join(named)} ({chosen.name} profile, {counted(threads, 'thread')}, "
            f"processes: {chosen.processes})"
        )
        steps = chosen.processes * (1 + 2 * len(sizes)) + (chosen.processes > 1)
        bar = _bar(place.reporter, steps=steps * len(named))
        for name in named:
            delay = RUNTIMES.get(name)().delay()
            if delay:
                place.reporter.note(f"{name}: {delay}")
            cells = measure(LatencyJob(members, name, setup), place, progress=bar)
            for record in members:
                timed[record.run] = _with_cells(record, cells, place)
    return timed


def _runtimes_for(
    names: Sequence[str], record: RunRecord, place: Workplace, *, threads: int
) -> tuple[str, ...]:
    """Return the runtimes named, or all that take the dense network of a record here."""
    if tuple(names) == ("all",):
        return tuple(RUNTIMES.names())
    if names:
        return tuple(dict.fromkeys(name for name in names if RUNTIMES.get(name)))
    net = dense_net(record.spec, place)
    found: list[str] = []
    for name in RUNTIMES.names():
        try:
            if RUNTIMES.get(name)().refuses(net, place.device, threads) is None:
                found.append(name)
        except PluginError as error:
            place.reporter.note(error.message)
    return tuple(found)


def without_broken(
    records: Sequence[RunRecord], place: Workplace
) -> tuple[list[RunRecord], dict[str, BenchError]]:
    """Return the records whose networks can be rebuilt and decide as recorded, and by run why the
    others' do not."""
    sound: list[RunRecord] = []
    broken: dict[str, BenchError] = {}
    for record in records:
        try:
            rebuilt_as_recorded(record, place)
        except BenchError as error:
            broken[record.run] = error
        else:
            sound.append(record)
    return sound, broken


def _bar(reporter: Reporter, *, steps: int) -> Progress:
    """Show how much of each step is done, in thousandths: the proof, then per size two steps."""
    step, done = 0, 1000
    reporter.run_started("latency")

    def advance(share: float) -> None:
        nonlocal step, done
        now = round(1000 * share)
        if now < done:
            step, done = step + 1, 0
            name = f"step {step} of {steps}"
            reporter.phase_started(name, epochs=1, done=0, images_per_epoch=1000)
        reporter.advanced(now - done)
        done = now

    return advance


def _with_cells(record: RunRecord, cells: Cells, place: Workplace) -> RunRecord:
    folder = place.store.folder_of(record)

    def change(now: RunRecord) -> RunRecord:
        points: list[PointRecord] = []
        for number, point in enumerate(now.points):
            kept: list[LatencyCell] = list(point.latency)
            for cell in cells.get(subject_name(now, point.name), []):
                file = _free_name(folder, number, cell.record)
                save_arrays(folder, file, cell.arrays)
                kept.append(cell.record.model_copy(update={"raw_file": file}))
            points.append(point.model_copy(update={"latency": tuple(kept)}))
        return now.model_copy(update={"points": tuple(points)})

    try:
        return place.store.amend(record.run, change)
    except RecordError as error:
        place.reporter.note(f"The latency of {record.run} is not kept: {error.message}")
        return record


def _free_name(folder: Path, number: int, cell: LatencyCell) -> str:
    """Return a new name for raw samples: a clock set back gives the same second twice."""
    stamp = "".join(c for c in cell.measured_at if c.isalnum())
    base = f"latency{number}-{cell.runtime}-b{cell.batch_size}-{stamp}"
    endings = ("", *(f"-{again}" for again in range(2, 1000)))
    return next(f"{base}{e}.npz" for e in endings if not (folder / f"{base}{e}.npz").exists())
