"""Finished runs timed in this process or in fresh ones: rounds over several, memory.

Of processes run minutes apart one can be a third slower than the others although nothing disturbs
it, and no statistic within it shows that. Memory means something only in a process that has done
nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from bench.data.images import Dataset, ImageSet
from bench.engine.building import Workplace, dense_net, rebuild
from bench.engine.supervising import WatchedProcess, packed, say, unpacked
from bench.errors import BenchError, RunFailed
from bench.measure.latency.cells import MeasuredCell, cells_of
from bench.measure.latency.resources import measure_resources
from bench.measure.latency.rounds import NetworkToTime, Progress, Setup, Timings, time_networks
from bench.plugins import load_plugin, plugin_files
from bench.records.record import RunRecord
from bench.records.store import RunStore
from bench.runtimes.contract import RUNTIMES
from bench.training.reporter import Reporter

# Every larger tensor gets pages of its own, given back when it is freed: the resident set is then
# what is alive, not what the C library kept.
_ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": "65536"}

Cells = dict[str, list[MeasuredCell]]
"""By `subject_name`, those of dense networks by the label of their backbone."""


@dataclass(frozen=True, slots=True, eq=False)
class LatencyJob:
    """Finished runs that are timed together in a runtime, and how."""

    records: Sequence[RunRecord]
    runtime: str
    setup: Setup


def subject_name(record: RunRecord, point: str) -> str:
    """Return what an operating point is called while it is measured."""
    return f"{record.run}/{point}"


def measure(job: LatencyJob, place: Workplace, *, progress: Progress) -> Cells:
    """Return the cells of a job, measured in as many processes as the profile says.

    A run whose network cannot be rebuilt is noted and left out.

    Raises:
        RunFailed: a process ended early; what is recorded already stays.
    """
    setup, profile = job.setup, job.setup.profile
    apart = profile.processes > 1
    found: list[list[Timings]] = [] if apart else [time_here(job, place, progress=progress)]
    for number in range(profile.processes if apart else 0):
        part = replace(setup, profile=profile.part, seed=setup.seed + number)
        found.append(_asked(time_here, replace(job, setup=part), place, progress=progress))
    dense_of = {record.spec.backbone.label: record.spec.backbone.label for record in job.records}
    for record in job.records:
        for point in record.points:
            dense_of[subject_name(record, point.name)] = record.spec.backbone.label
    cells = cells_of(found, dense_of, runtime=job.runtime, setup=setup)
    return _with_resources(cells, job, place, progress=progress) if apart else cells


def time_here(job: LatencyJob, place: Workplace, *, progress: Progress) -> list[Timings]:
    """Time the networks of a job in this process, each against the dense one of its backbone."""
    networks: dict[str, NetworkToTime] = {}
    for record in job.records:
        dense = record.spec.backbone.label
        if dense not in networks:
            networks[dense] = NetworkToTime(dense_net(record.spec, place), dense)
        try:
            points = rebuild(record, place)
        except BenchError as error:
            place.reporter.note(f"{record.run} is not timed: {error.message}")
            continue
        for point, measured in zip(points, record.points, strict=True):
            net = point.net.inference_net(dead_blocks=frozenset(measured.dead_blocks))
            networks[subject_name(record, point.name)] = NetworkToTime(net, dense)
    return time_networks(networks, RUNTIMES.get(job.runtime)(), job.setup, progress=progress)


def _with_resources(
    cells: Cells, job: LatencyJob, place: Workplace, *, progress: Progress
) -> Cells:
    """Return the cells with first call and memory, or why there is none, each measured in a process
    of its own; cells of dense baselines stay as they are."""
    found = dict(cells)
    subjects = [(record, number) for record in job.records for number in range(len(record.points))]
    for done, (record, number) in enumerate(subjects):
        progress(done / len(subjects))
        name = subject_name(record, record.points[number].name)
        own = replace(job, records=[record])
        found[name] = [_with_own(cell, number, own, place) for cell in cells.get(name, [])]
    return found


def _with_own(cell: MeasuredCell, number: int, job: LatencyJob, place: Workplace) -> MeasuredCell:
    """Return the cell of operating point `number` of the only record with its resources."""
    values: Mapping[str, Any] = {"memory_reason": "not timed"}
    if cell.record.latency_ms is not None:
        setup = replace(job.setup, batch_sizes=(cell.record.batch_size,))
        task = partial(_resources_here, number=number)
        try:
            values = _asked(task, replace(job, setup=setup), place, variables=_ALLOCATION)
        except RunFailed as error:
            values = {"memory_reason": error.message}
    return cell._replace(record=cell.record.model_copy(update=values))


def _resources_here(
    job: LatencyJob, place: Workplace, *, number: int, progress: Progress
) -> Mapping[str, float | str | None]:
    """Return fields of a latency cell of operating point `number` of the only record."""
    (record,) = job.records
    dead = frozenset(record.points[number].dead_blocks)
    net = rebuild(record, place)[number].net.inference_net(dead_blocks=dead)
    return measure_resources(net, RUNTIMES.get(job.runtime)(), job.setup)


def _asked(
    task: Callable[..., Any],
    job: LatencyJob,
    place: Workplace,
    *,
    progress: Progress | None = None,
    variables: Mapping[str, str] | None = None,
) -> Any:
    """Return what a fresh process, with `variables` in its environment, finds for a job by `task`.

    Raises:
        RunFailed: it ended with an error.
    """
    setup = replace(job.setup, images_nchw=job.setup.images_nchw.cpu())
    where = (place.dataset.info, place.store.results_dir, plugin_files())
    with WatchedProcess(__name__, variables or {}) as process:
        for kind, what in process.ask((*where, packed((task, replace(job, setup=setup))))):
            if kind == "note":
                place.reporter.note(what)
            elif kind == "progress" and progress is not None:
                progress(what)
            elif kind == "failed":
                raise RunFailed(
                    f"Latency is not measured: {what['reason']}",
                    hint="--profile default measures in one process.",
                )
    return unpacked(what)


def main() -> None:
    """Do the job on standard input."""
    info, results_dir, plugins, what = unpacked(sys.stdin.readline())
    # Networks are rebuilt from the description of the data alone.
    blank = torch.zeros(0, info.height, info.width, info.channels, dtype=torch.uint8)
    none = ImageSet(blank, torch.zeros(0, dtype=torch.int64))
    reporter = Reporter()
    reporter.note = partial(say, "note")  # type: ignore[method-assign]
    dataset, store = Dataset(info, none, none), RunStore(results_dir)
    try:
        for file in plugins:
            load_plugin(file)
        task, job = unpacked(what)
        place = Workplace(dataset, store, job.setup.device, reporter)
        answer = task(job, place, progress=partial(say, "progress"))
    except BenchError as error:
        sys.exit(error.message)
    say("finished", packed(answer))
