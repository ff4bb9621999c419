"""Measurements that need fresh processes: rounds spread over several, and memory and energy.

Of processes run minutes apart one can be a third slower than the others although nothing disturbs
it, and no statistic within it shows that. Memory means something only in a process that has done
nothing else. Starts the processes; what one does is child.py.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from bench.data.images import DatasetInfo
from bench.engine.building import Workplace
from bench.engine.latency.measuring import Task, subject_name
from bench.errors import RunFailed
from bench.measure.latency.cells import MeasuredCell, merged
from bench.measure.latency.rounds import Progress
from bench.plugins import plugin_files
from bench.records.record import RunRecord

JOB_FILE, ANSWER_FILE = "job.pickle", "answer.pickle"
# Every larger tensor gets pages of its own, given back when it is freed: the resident set is then
# what is alive, not what the C library kept.
_ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": "65536"}
_NO_VARIABLES: Mapping[str, str] = {}


class Job(NamedTuple):
    """What one process has to do; `point` is the operating point whose resources are measured."""

    kind: Literal["latency", "resources"]
    records: Sequence[RunRecord]
    task: Task
    images_nchw: Tensor
    info: DatasetInfo
    results_dir: Path
    plugins: Sequence[Path]
    device: str
    point: int = 0


def measure_in_processes(
    records: Sequence[RunRecord],
    place: Workplace,
    images_nchw: Tensor,
    *,
    task: Task,
    progress: Progress,
) -> dict[str, list[MeasuredCell]]:
    """Return the same as `measure_here`, the rounds spread over the profile's processes.

    Raises:
        RunFailed: a process ended early; what is recorded already stays.
    """
    part = task._replace(profile=task.profile.part)
    found: list[dict[str, list[MeasuredCell]]] = []
    for number in range(task.profile.processes):
        own = part._replace(seed=task.seed + number)
        job = _job("latency", records, place, images_nchw, task=own)
        found.append(_answer(job, place, progress=progress))
    dense = {cells[0].dense for cells in found[0].values()}

    def of_all(name: str, number: int) -> list[MeasuredCell]:
        return [one[name][number] for one in found]

    return {
        name: [
            merged(of_all(name, number), {other: of_all(other, number) for other in dense})
            for number in range(len(task.runtimes) * len(task.batch_sizes))
        ]
        for name in found[0]
        if all(name in one for one in found)
    }


def with_resources(
    cells: Mapping[str, list[MeasuredCell]],
    records: Sequence[RunRecord],
    place: Workplace,
    images_nchw: Tensor,
    *,
    task: Task,
    progress: Progress,
) -> dict[str, list[MeasuredCell]]:
    """Return the cells with first call, memory and energy, or why there is none, each measured in
    a process of its own; cells of dense baselines stay as they are."""
    found = dict(cells)
    subjects = [(record, number) for record in records for number in range(len(record.points))]
    for done, (record, number) in enumerate(subjects):
        name = subject_name(record, record.points[number].name)
        progress(f"{name}: memory and energy", done / len(subjects))
        job = _job("resources", [record], place, images_nchw, task=task)._replace(point=number)
        found[name] = [_with_resources(cell, job, place) for cell in cells.get(name, [])]
    return found


def _with_resources(cell: MeasuredCell, job: Job, place: Workplace) -> MeasuredCell:
    shown = cell.record
    if shown.latency_ms is None:
        values: dict[str, Any] = dict.fromkeys(("memory_reason", "energy_reason"), "not timed")
    else:
        own = job.task._replace(batch_sizes=(shown.batch_size,), runtimes=(shown.runtime,))
        try:
            values = _answer(job._replace(task=own), place, variables=_ALLOCATION)
        except RunFailed as error:
            values = dict.fromkeys(("memory_reason", "energy_reason"), error.message)
    return dataclasses.replace(cell, record=shown.model_copy(update=values))


def _job(
    kind: Literal["latency", "resources"],
    records: Sequence[RunRecord],
    place: Workplace,
    images_nchw: Tensor,
    *,
    task: Task,
) -> Job:
    info, results_dir = place.dataset.info, place.store.results_dir
    images_nchw, device = images_nchw.cpu(), str(place.device)
    return Job(kind, records, task, images_nchw, info, results_dir, plugin_files(), device)


def _answer(
    job: Job,
    place: Workplace,
    *,
    progress: Progress | None = None,
    variables: Mapping[str, str] = _NO_VARIABLES,
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
        (folder / JOB_FILE).write_bytes(pickle.dumps(job))
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
            raise RunFailed(
                f"A process that measures latency ended with status {process.returncode}: "
                f"{said[-1]}",
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
