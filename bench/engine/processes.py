"""The same measurement by several fresh processes, one after the other, put into one cell.

Of processes run minutes apart one can be a third slower than the others although nothing disturbs
it, and no statistic within it shows that. Starts the processes and reads what they leave; what one
does is timing_process.py. Nothing is passed but JSON and .npz files in a folder of its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from bench.engine.building import Workplace
from bench.engine.measuring import Task
from bench.engine.plan import plugin_files
from bench.errors import RunFailed
from bench.measure.cells import MeasuredCell, RawLatency, merged
from bench.measure.lanes import Progress
from bench.records.record import LatencyCell, RunRecord
from bench.records.store import load_arrays, save_arrays

JOB_FILE = "job.json"
IMAGES_FILE = "images.npz"
CELLS_FILE = "cells.json"
_NOTE, _PROGRESS = "note", "progress"


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
        job = job_of(records, place, part._replace(seed=task.seed + number))
        with answered("timing_process", job, images_nchw, place, progress=progress) as folder:
            found.append(read_cells(folder))
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


def write_cells(folder: Path, cells: dict[str, list[MeasuredCell]]) -> None:
    """Leave the cells of one process in `folder`."""
    listed: list[tuple[str, object, str, str, str]] = []
    for name, members in cells.items():
        for cell in members:
            file = f"raw{len(listed)}.npz"
            save_arrays(folder, file, cell.raw.arrays())
            record = cell.record.model_dump(mode="json")
            listed.append((name, record, file, cell.equivalence, cell.dense))
    (folder / CELLS_FILE).write_text(json.dumps(listed))


def read_cells(folder: Path) -> dict[str, list[MeasuredCell]]:
    """Return what `write_cells` left."""
    cells: dict[str, list[MeasuredCell]] = {}
    for name, record, file, equivalence, dense in json.loads((folder / CELLS_FILE).read_text()):
        raw = RawLatency(**load_arrays(folder, file))
        cell = MeasuredCell(LatencyCell.model_validate(record), raw, equivalence, dense)
        cells.setdefault(name, []).append(cell)
    return cells


def line_of_note(message: str) -> str:
    """Return the line by which a process passes a note on."""
    return json.dumps([_NOTE, message])


def line_of_progress(what: str, share: float) -> str:
    """Return the line by which a process says how far it is."""
    return json.dumps([_PROGRESS, what, share])


def job_of(records: Sequence[RunRecord], place: Workplace, task: Task) -> dict[str, object]:
    """Return what a process needs to know to rebuild and measure the networks of `records`."""
    return {
        "results_dir": str(place.store.results_dir),
        "runs": [record.run for record in records],
        "plugins": [str(path) for path in plugin_files()],
        "dataset": dataclasses.asdict(place.dataset.info),
        "device": str(place.device),
        "task": task._replace(profile=None)._asdict(),  # type: ignore[arg-type]
        "profile": dataclasses.asdict(task.profile),
    }


@contextmanager
def answered(
    module: str,
    job: Mapping[str, object],
    images_nchw: Tensor,
    place: Workplace,
    *,
    progress: Progress,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Path]:
    """Have a module of this package do a job in a fresh process; its answer lies in the folder.

    What it says is passed on; `variables` are added to its environment.

    Raises:
        RunFailed: it ended with an error.
    """
    with tempfile.TemporaryDirectory(prefix="bench-latency-") as name:
        folder = Path(name)
        save_arrays(folder, IMAGES_FILE, {"images_nchw": images_nchw.cpu().numpy()})
        (folder / JOB_FILE).write_text(json.dumps(job))
        _run(module, folder, place, progress=progress, variables=variables or {})
        yield folder


def _run(
    module: str,
    folder: Path,
    place: Workplace,
    *,
    progress: Progress,
    variables: Mapping[str, str],
) -> None:
    # -P: not from the folder that a user happens to be in, which may have a `bench` of its own.
    command = [sys.executable, "-P", "-m", f"bench.engine.{module}", str(folder)]
    paths = os.pathsep.join(path for path in sys.path if path)
    errors = folder / "stderr.txt"
    with (
        errors.open("w") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, **variables},
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                _pass_on(line, place, progress=progress)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        said = errors.read_text().strip().splitlines() or ["it said nothing"]
        raise RunFailed(
            f"A process that measures latency ended with status {process.returncode}: {said[-1]}",
            hint="--profile default measures in one process.",
        )


def _pass_on(line: str, place: Workplace, *, progress: Progress) -> None:
    try:
        kind, *said = json.loads(line)
    except (ValueError, TypeError):
        return  # a method's own print
    if kind == _PROGRESS:
        progress(*said)
    elif kind == _NOTE:
        place.reporter.note(*said)
