"""Finished runs timed in this process or in fresh ones: rounds over several, memory, energy.

Of processes run minutes apart one can be a third slower than the others although nothing disturbs
it, and no statistic within it shows that. Memory means something only in a process that has done
nothing else. Job and answer are pickles in a folder that the parent made for them; notes and
progress are lines of JSON on standard output.
"""

from __future__ import annotations

import pickle
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.data.images import Dataset, ImageSet
from bench.engine.building import Workplace, dense_net, rebuild
from bench.engine.supervising import WatchedProcess, say
from bench.errors import BenchError, PluginError, RunFailed
from bench.measure.latency import resources
from bench.measure.latency.cells import MeasuredCell, merged
from bench.measure.latency.profiles import Profile
from bench.measure.latency.protocol import NetworkToTime, measure_latency
from bench.measure.latency.rounds import Progress, Query, queries, synchronise
from bench.measure.modes import using_threads
from bench.plugins import load_plugin, plugin_files
from bench.records.record import RunRecord
from bench.records.store import RunStore
from bench.runtimes.contract import RUNTIMES, Run
from bench.training.reporter import Silent

_JOB_FILE, _ANSWER_FILE = "job.pickle", "answer.pickle"
# Every larger tensor gets pages of its own, given back when it is freed: the resident set is then
# what is alive, not what the C library kept.
_ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": "65536"}

Cells = dict[str, list[MeasuredCell]]
"""By `subject_name`, those of dense networks by the label of their backbone."""


@dataclass(frozen=True, slots=True, eq=False)
class LatencyJob:
    """Finished runs that are timed together in a runtime, and how.

    `point`, if given, is the operating point of the only record whose resources are measured.
    """

    records: Sequence[RunRecord]
    images_nchw: Tensor
    batch_sizes: tuple[int, ...]
    profile: Profile
    threads: int
    runtime: str
    seed: int = 0
    point: int | None = None


def runtimes_for(
    names: Sequence[str], record: RunRecord, place: Workplace, *, threads: int
) -> tuple[str, ...]:
    """Return the runtimes named, or all that take the dense network of a record here.

    Raises:
        UnknownNameError: there is no runtime of that name.
    """
    if tuple(names) == ("all",):
        return tuple(RUNTIMES.names())
    if names:
        return tuple(dict.fromkeys(name for name in names if RUNTIMES.get(name)))
    net = dense_net(record.spec, place)
    found: list[str] = []
    for name in RUNTIMES.names():
        try:
            refused = RUNTIMES.get(name)().refuses(net, place.device, threads)
        except PluginError as error:
            place.reporter.note(error.message)
            continue
        if refused is None:
            found.append(name)
    return tuple(found)


def measure_here(job: LatencyJob, place: Workplace, *, progress: Progress) -> Cells:
    """Measure in this process; a run whose network cannot be rebuilt is noted and left out."""
    specs = {record.spec.backbone.label: record.spec for record in reversed(job.records)}
    return measure_latency(
        _networks(job.records, place),
        {label: dense_net(specs[label], place) for label in sorted(specs)},
        images_nchw=job.images_nchw,
        runtime=RUNTIMES.get(job.runtime)(),
        batch_sizes=job.batch_sizes,
        profile=job.profile,
        device=place.device,
        threads=job.threads,
        seed=job.seed,
        progress=progress,
    )


def subject_name(record: RunRecord, point: str) -> str:
    """Return what an operating point is called while it is measured."""
    return f"{record.run}/{point}"


def _networks(records: Sequence[RunRecord], place: Workplace) -> dict[str, NetworkToTime]:
    nets: dict[str, NetworkToTime] = {}
    for record in records:
        try:
            points = rebuild(record, place)
        except BenchError as error:
            place.reporter.note(f"{record.run} is not timed: {error.message}")
            continue
        for point, measured in zip(points, record.points, strict=True):
            net = point.net.inference_net(dead_blocks=frozenset(measured.dead_blocks))
            nets[subject_name(record, point.name)] = NetworkToTime(net, record.spec.backbone.label)
    return nets


def measure_in_processes(job: LatencyJob, place: Workplace, *, progress: Progress) -> Cells:
    """Return the same as `measure_here`, the rounds spread over the profile's processes.

    Raises:
        RunFailed: a process ended early; what is recorded already stays.
    """
    found: list[Cells] = []
    for number in range(job.profile.processes):
        part = replace(job, profile=job.profile.part, seed=job.seed + number)
        found.append(_asked(part, place, progress=progress))
    dense = {cells[0].dense for cells in found[0].values()}

    def of_all(name: str, number: int) -> list[MeasuredCell]:
        return [one[name][number] for one in found]

    return {
        name: [
            merged(of_all(name, number), {other: of_all(other, number) for other in dense})
            for number in range(len(job.batch_sizes))
        ]
        for name in found[0]
        if all(name in one for one in found)
    }


def with_resources(cells: Cells, job: LatencyJob, place: Workplace, *, progress: Progress) -> Cells:
    """Return the cells with first call, memory and energy, or why there is none, each measured in
    a process of its own; cells of dense baselines stay as they are."""
    found = dict(cells)
    subjects = [(record, number) for record in job.records for number in range(len(record.points))]
    for done, (record, number) in enumerate(subjects):
        name = subject_name(record, record.points[number].name)
        progress(done / len(subjects))
        own = replace(job, records=[record], point=number)
        found[name] = [_with_resources(cell, own, place) for cell in cells.get(name, [])]
    return found


def _with_resources(cell: MeasuredCell, job: LatencyJob, place: Workplace) -> MeasuredCell:
    shown, why = cell.record, ("memory_reason", "energy_reason")
    values: dict[str, Any] = dict.fromkeys(why, "not timed")
    if shown.latency_ms is not None:
        own = replace(job, batch_sizes=(shown.batch_size,))
        try:
            values = _asked(own, place, variables=_ALLOCATION)
        except RunFailed as error:
            values = dict.fromkeys(why, error.message)
    return replace(cell, record=shown.model_copy(update=values))


def _asked(
    job: LatencyJob,
    place: Workplace,
    *,
    progress: Progress | None = None,
    variables: Mapping[str, str] | None = None,
) -> Any:
    """Return what a fresh process, with `variables` in its environment, answers to a job.

    Raises:
        RunFailed: it ended with an error.
    """
    with (
        tempfile.TemporaryDirectory(prefix="bench-latency-") as name,
        WatchedProcess(__name__, variables or {}) as process,
    ):
        folder = Path(name)
        sent = replace(job, images_nchw=job.images_nchw.cpu())
        where = (place.dataset.info, place.store.results_dir, place.device, plugin_files())
        (folder / _JOB_FILE).write_bytes(pickle.dumps((sent, *where)))
        for kind, what in process.ask(name):
            if kind == "note":
                place.reporter.note(what)
            elif kind == "progress" and progress is not None:
                progress(what)
            elif kind == "failed":
                raise RunFailed(
                    f"Latency is not measured: {what['reason']}",
                    hint="--profile default measures in one process.",
                )
        return pickle.loads((folder / _ANSWER_FILE).read_bytes())


def main() -> None:
    """Do the job in the folder that the parent names, and leave the answer there."""
    try:
        _answer(Path(input()))
    except BenchError as error:
        sys.exit(error.message)
    say("finished", None)


def _answer(folder: Path) -> None:
    job: LatencyJob
    job, info, results_dir, device, plugins = pickle.loads((folder / _JOB_FILE).read_bytes())
    for file in plugins:
        load_plugin(file)
    # Networks are rebuilt from the description of the data alone.
    blank = torch.zeros(0, info.height, info.width, info.channels, dtype=torch.uint8)
    none = ImageSet(blank, torch.zeros(0, dtype=torch.int64))
    reporter = Silent()
    reporter.note = partial(say, "note")  # type: ignore[method-assign]
    place = Workplace(Dataset(info, none, none), RunStore(results_dir), device, reporter)
    if job.point is None:
        answer: object = measure_here(job, place, progress=partial(say, "progress"))
    else:
        answer = _resources(job, job.point, place)
    (folder / _ANSWER_FILE).write_bytes(pickle.dumps(answer))


def _resources(job: LatencyJob, point: int, place: Workplace) -> dict[str, float | str | None]:
    """Return fields of a latency cell."""
    (record,), images_nchw = job.records, job.images_nchw.to(place.device)
    dead = frozenset(record.points[point].dead_blocks)
    net = rebuild(record, place)[point].net.inference_net(dead_blocks=dead)
    order = np.arange(len(images_nchw), dtype=np.int32)
    inputs = queries(images_nchw, order, batch_size=job.batch_sizes[0])
    with using_threads(job.threads), torch.inference_mode():
        run = RUNTIMES.get(job.runtime)().prepare(net, images_nchw[:2])
        # Only where single images are the task.
        first_ms = _first_ms(run, images_nchw[:1]) if job.batch_sizes == (1,) else None
        memory = resources.peak_memory_mib(run, next(inputs).x_nchw, net=net)
        energy = _energy(run, inputs, place, seconds=job.profile.energy_s)
    return {
        "first_ms": first_ms,
        "memory_mib": memory.value,
        "memory_reason": memory.reason,
        "energy_mj_per_image": energy.value,
        "energy_reason": energy.reason,
    }


def _first_ms(run: Run, x_1chw: Tensor) -> float:
    """Return the milliseconds of the process's first call."""
    synchronise(x_1chw.device)
    started = time.perf_counter_ns()
    run(x_1chw)
    synchronise(x_1chw.device)
    return (time.perf_counter_ns() - started) / 1e6


def _energy(
    run: Run, inputs: Iterator[Query], place: Workplace, *, seconds: float
) -> resources.Reading:
    counter, reason = resources.counter_of(place.device)
    if counter is None:
        return resources.Reading(None, reason)

    def one_batch() -> int:
        x_nchw, image_b = next(inputs)
        run(x_nchw)
        synchronise(place.device)
        return len(image_b)

    return resources.Reading(resources.energy_mj_per_image(one_batch, counter, seconds=seconds))
