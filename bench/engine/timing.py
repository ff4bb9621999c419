"""Latency of finished runs: networks rebuilt, timed together, cells added to their records.

Owns which networks meet in one measurement: all operating points that share data, backbone and
normalisation, against one dense network. How time is taken is bench.measure.latency's business.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from bench.config import RunSpec
from bench.engine.building import Workplace, dense_net, rebuild
from bench.engine.single import first_images
from bench.errors import BenchError
from bench.measure.cells import MeasuredCell
from bench.measure.latency import measure_latency
from bench.measure.profiles import profile_named
from bench.method import DynamicNet
from bench.records.record import LatencyCell, PointRecord, RunRecord
from bench.records.store import save_arrays
from bench.training.reporter import Reporter

LATENCY_IMAGES = 1024
MIN_IMAGES = 256


def time_records(
    records: Sequence[RunRecord],
    place: Workplace,
    *,
    profile: str,
    batch_sizes: Sequence[int],
    threads: int = 1,
) -> dict[str, RunRecord]:
    """Return the records, by run, with the new cells added and saved; older cells stay.

    Raises:
        UnknownNameError: there is no such profile.
    """
    chosen = profile_named(profile)
    groups: dict[tuple[object, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        groups[_meeting(record.spec)].append(record)
    timed: dict[str, RunRecord] = {}
    for members in groups.values():
        spec = members[0].spec
        images = first_images(spec, place, count=LATENCY_IMAGES)
        if len(images) < MIN_IMAGES:
            place.reporter.note(f"No latency: {len(images)} test images, {MIN_IMAGES} needed.")
            continue
        nets = _networks(members, place)
        place.reporter.note(
            f"Timing {len(nets)} networks against the dense {spec.backbone.name} "
            f"({chosen.name} profile, {threads} thread)"
        )
        cells = measure_latency(
            {name: net for name, net in nets.items()},
            dense_net(spec, place),
            images_nchw=images,
            batch_sizes=batch_sizes,
            profile=chosen,
            device=place.device,
            threads=threads,
            seed=0,
            progress=_bar(place.reporter, batch_sizes=len(batch_sizes)),
        )
        for record in members:
            timed[record.run] = _with_cells(record, cells, place)
    return timed


def _bar(reporter: Reporter, *, batch_sizes: int) -> Callable[[str, float], None]:
    """Show how much of each step is done, in thousandths: the proof, then per size two steps."""
    steps, step, done = 1 + 2 * batch_sizes, 0, 1000
    reporter.run_started("latency")

    def advance(text: str, share: float) -> None:
        nonlocal step, done
        del text
        now = round(1000 * share)
        if now < done:
            step, done = step + 1, 0
            name = f"step {step} of {steps}"
            reporter.phase_started(name, epochs=1, done=0, images_per_epoch=1000)
        reporter.advanced(now - done)
        done = now

    return advance


def _meeting(spec: RunSpec) -> tuple[object, ...]:
    return (spec.dataset.fingerprint, spec.backbone, spec.normalisation)


def _networks(records: Sequence[RunRecord], place: Workplace) -> dict[str, DynamicNet]:
    nets: dict[str, DynamicNet] = {}
    for record in records:
        try:
            points = rebuild(record, place)
        except BenchError as error:
            place.reporter.note(f"{record.run} is not timed: {error.message}")
            continue
        dead = [frozenset(point.dead_blocks) for point in record.points]
        for point, blocks in zip(points, dead, strict=True):
            nets[_name(record, point.name)] = point.net.inference_net(dead_blocks=blocks)
    return nets


def _name(record: RunRecord, point: str) -> str:
    return f"{record.run}/{point}"


def _with_cells(
    record: RunRecord, cells: dict[str, list[MeasuredCell]], place: Workplace
) -> RunRecord:
    folder = place.store.folder(record.spec)
    points: list[PointRecord] = []
    for number, point in enumerate(record.points):
        measured = cells.get(_name(record, point.name), [])
        kept: list[LatencyCell] = list(point.latency)
        for cell in measured:
            stamp = "".join(c for c in cell.record.measured_at if c.isalnum())
            file = f"latency{number}-b{cell.record.batch_size}-{stamp}.npz"
            save_arrays(folder, file, cell.raw.arrays())
            kept.append(cell.record.model_copy(update={"raw_file": file}))
        points.append(point.model_copy(update={"latency": tuple(kept)}))
    updated = record.model_copy(update={"points": tuple(points)})
    place.store.update(updated)
    return updated
