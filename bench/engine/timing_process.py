"""One of several processes that measure latency: `python -m bench.engine.timing_process FOLDER`.

Reads its job from the folder, measures it as any process would, and leaves the cells there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from bench.data.images import Dataset, DatasetInfo, ImageSet
from bench.engine.building import Workplace
from bench.engine.measuring import Task, measure_here
from bench.engine.plan import METHODS
from bench.engine.processes import (
    IMAGES_FILE,
    JOB_FILE,
    line_of_note,
    line_of_progress,
    write_cells,
)
from bench.errors import BenchError
from bench.measure.profiles import Profile
from bench.records.store import RunStore, load_arrays
from bench.training.reporter import Silent


class _Forwarding(Silent):
    def note(self, message: str) -> None:
        print(line_of_note(message), flush=True)


def main(folder: Path) -> None:
    """Measure the job in `folder`."""
    job = json.loads((folder / JOB_FILE).read_text())
    for file in job["plugins"]:
        METHODS.add_file(Path(file))
    store = RunStore(Path(job["results_dir"]))
    place = Workplace(_no_images(job["dataset"]), store, torch.device(job["device"]), _Forwarding())
    images = torch.from_numpy(load_arrays(folder, IMAGES_FILE)["images_nchw"])
    cells = measure_here(
        [store.get(run) for run in job["runs"]],
        place,
        images.to(place.device),
        task=_task(job),
        progress=lambda what, share: print(line_of_progress(what, share), flush=True),
    )
    write_cells(folder, cells)


def _task(job: dict[str, Any]) -> Task:
    given = job["task"] | {"profile": Profile(**job["profile"])}
    return Task(**given | {"batch_sizes": tuple(given["batch_sizes"])})


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
