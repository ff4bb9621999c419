"""One of several processes that measure latency: `python -m bench.engine.timing_process FOLDER`.

Reads its job from the folder, measures it as any process would, and leaves the cells there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.data.images import Dataset, DatasetInfo, ImageSet
from bench.engine.building import Workplace
from bench.engine.measuring import Task, measure_here
from bench.engine.plan import load_plugin
from bench.engine.processes import (
    IMAGES_FILE,
    JOB_FILE,
    line_of_note,
    line_of_progress,
    write_cells,
)
from bench.errors import BenchError
from bench.measure.profiles import Profile
from bench.records.record import RunRecord
from bench.records.store import RunStore, load_arrays
from bench.training.reporter import Silent


class _Forwarding(Silent):
    def note(self, message: str) -> None:
        print(line_of_note(message), flush=True)


class Job(NamedTuple):
    """What one process has to do; `given` is the job as it was written."""

    records: list[RunRecord]
    place: Workplace
    images_nchw: Tensor
    task: Task
    given: dict[str, Any]


def open_job(folder: Path) -> Job:
    """Return the job in `folder`; methods from plugin files are known afterwards."""
    given = json.loads((folder / JOB_FILE).read_text())
    for file in given["plugins"]:
        load_plugin(Path(file))
    store = RunStore(Path(given["results_dir"]))
    device = torch.device(given["device"])
    place = Workplace(_no_images(given["dataset"]), store, device, _Forwarding())
    images = torch.from_numpy(load_arrays(folder, IMAGES_FILE)["images_nchw"])
    task = given["task"] | {"profile": Profile(**given["profile"])}
    return Job(
        [store.get(run) for run in given["runs"]],
        place,
        images.to(device),
        Task(**task | {key: tuple(task[key]) for key in ("batch_sizes", "runtimes")}),
        given,
    )


def main(folder: Path) -> None:
    """Measure the job in `folder`."""
    job = open_job(folder)
    cells = measure_here(
        job.records,
        job.place,
        job.images_nchw,
        task=job.task,
        progress=lambda what, share: print(line_of_progress(what, share), flush=True),
    )
    write_cells(folder, cells)


def _no_images(description: dict[str, Any]) -> Dataset:
    """Return the data set without its images: networks are rebuilt from its description alone."""
    lists: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in description.items()
    }
    info = DatasetInfo(**lists)
    images = torch.zeros(0, info.height, info.width, info.channels, dtype=torch.uint8)
    none = ImageSet(images, torch.zeros(0, dtype=torch.int64))
    return Dataset(info, none, none)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except BenchError as error:
        sys.exit(error.message)
