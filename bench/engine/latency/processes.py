"""Finished runs timed in this process or in fresh ones: rounds over several, memory, energy.

Of processes run minutes apart one can be a third slower than the others although nothing disturbs
it, and no statistic within it shows that. Memory means something only in a process that has done
nothing else. What a process does is child.py.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from bench.data.images import DatasetInfo
from bench.engine.building import Workplace, dense_net, rebuild
from bench.errors import BenchError, PluginError, RunFailed
from bench.measure.latency.cells import MeasuredCell, merged
from bench.measure.latency.profiles import Profile
from bench.measure.latency.protocol import Subject, measure_latency
from bench.measure.latency.rounds import Progress
from bench.plugins import plugin_files
from bench.records.record import RunRecord
from bench.runtimes.contract import RUNTIMES

JOB_FILE, ANSWER_FILE = "job.pickle", "answer.pickle"
# Every larger tensor gets pages of its own, given back when it is freed: the resident set is then
# what is alive, not what the C library kept.
_ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": "65536"}

Cells = dict[str, list[MeasuredCell]]
"""By `subject_name`, those of dense networks by the label of their backbone."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Finished runs that are timed together, and how; all that a process needs to know.

    `point`, if given, is the operating point of the only record whose resources are measured.
    """

    records: Sequence[RunRecord]
    images_nchw: Tensor
    batch_sizes: tuple[int, ...]
    profile: Profile
    threads: int
    runtimes: tuple[str, ...]
    info: DatasetInfo
    results_dir: Path
    device: str
    plugins: Sequence[Path] = field(default_factory=lambda: plugin_files())
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


def measure_here(job: Job, place: Workplace, *, progress: Progress) -> Cells:
    """Measure in this process; a run whose network cannot be rebuilt is noted and left out."""
    specs = {record.spec.backbone.label: record.spec for record in reversed(job.records)}
    return measure_latency(
        _networks(job.records, place),
        {label: dense_net(specs[label], place) for label in sorted(specs)},
        images_nchw=job.images_nchw,
        runtimes=[RUNTIMES.get(name)() for name in job.runtimes],
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


def _networks(records: Sequence[RunRecord], place: Workplace) -> dict[str, Subject]:
    nets: dict[str, Subject] = {}
    for record in records:
        try:
            points = rebuild(record, place)
        except BenchError as error:
            place.reporter.note(f"{record.run} is not timed: {error.message}")
            continue
        for point, measured in zip(points, record.points, strict=True):
            net = point.net.inference_net(dead_blocks=frozenset(measured.dead_blocks))
            nets[subject_name(record, point.name)] = Subject(net, record.spec.backbone.label)
    return nets


def measure_in_processes(job: Job, place: Workplace, *, progress: Progress) -> Cells:
    """Return the same as `measure_here`, the rounds spread over the profile's processes.

    Raises:
        RunFailed: a process ended early; what is recorded already stays.
    """
    found: list[Cells] = []
    for number in range(job.profile.processes):
        part = replace(job, profile=job.profile.part, seed=job.seed + number)
        found.append(_answer(part, place, progress=progress))
    dense = {cells[0].dense for cells in found[0].values()}

    def of_all(name: str, number: int) -> list[MeasuredCell]:
        return [one[name][number] for one in found]

    return {
        name: [
            merged(of_all(name, number), {other: of_all(other, number) for other in dense})
            for number in range(len(job.runtimes) * len(job.batch_sizes))
        ]
        for name in found[0]
        if all(name in one for one in found)
    }


def with_resources(cells: Cells, job: Job, place: Workplace, *, progress: Progress) -> Cells:
    """Return the cells with first call, memory and energy, or why there is none, each measured in
    a process of its own; cells of dense baselines stay as they are."""
    found = dict(cells)
    subjects = [(record, number) for record in job.records for number in range(len(record.points))]
    for done, (record, number) in enumerate(subjects):
        name = subject_name(record, record.points[number].name)
        progress(f"{name}: memory and energy", done / len(subjects))
        own = replace(job, records=[record], point=number)
        found[name] = [_with_resources(cell, own, place) for cell in cells.get(name, [])]
    return found


def _with_resources(cell: MeasuredCell, job: Job, place: Workplace) -> MeasuredCell:
    shown, why = cell.record, ("memory_reason", "energy_reason")
    values: dict[str, Any] = dict.fromkeys(why, "not timed")
    if shown.latency_ms is not None:
        own = replace(job, batch_sizes=(shown.batch_size,), runtimes=(shown.runtime,))
        try:
            values = _answer(own, place, variables=_ALLOCATION)
        except RunFailed as error:
            values = dict.fromkeys(why, error.message)
    return replace(cell, record=shown.model_copy(update=values))


def _answer(
    job: Job,
    place: Workplace,
    *,
    progress: Progress | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Any:
    """Return what a fresh process, with `variables` in its environment, answers to a job.

    Raises:
        RunFailed: it ended with an error.
    """
    # -P: not from the folder that a user happens to be in, which may have a `bench` of its own.
    command = [sys.executable, "-P", "-m", "bench.engine.latency.child"]
    paths = os.pathsep.join(path for path in sys.path if path)
    with tempfile.TemporaryDirectory(prefix="bench-latency-") as name:
        folder = Path(name)
        sent = replace(job, images_nchw=job.images_nchw.cpu())
        (folder / JOB_FILE).write_bytes(pickle.dumps(sent))
        errors = folder / "stderr.txt"
        with (
            errors.open("w") as log,
            subprocess.Popen(
                [*command, name],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": paths, **variables},
            ) as process,
        ):
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    _pass_on(line, place, progress)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            said = errors.read_text().strip().splitlines() or ["it said nothing"]
            status = process.returncode
            raise RunFailed(
                f"A process that measures latency ended with status {status}: {said[-1]}",
                hint="--profile default measures in one process.",
            )
        return pickle.loads((folder / ANSWER_FILE).read_bytes())


def _pass_on(line: str, place: Workplace, progress: Progress | None) -> None:
    with suppress(ValueError, TypeError):  # a method's own print
        kind, *said = json.loads(line)
        if kind == "progress" and progress is not None:
            progress(*said)
        elif kind == "note":
            place.reporter.note(*said)
