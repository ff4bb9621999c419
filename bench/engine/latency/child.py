"""What a fresh process measures: `python -m bench.engine.latency.child FOLDER`.

Either its share of the rounds, as any process would, or the first call, memory and energy of one
network in one runtime at one batch size. Job and answer are pickles in the folder, which the parent
made for it; notes and progress are lines of JSON on standard output.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.data.images import Dataset, ImageSet
from bench.engine.building import Workplace, rebuild
from bench.engine.latency.processes import ANSWER_FILE, JOB_FILE, Job, measure_here
from bench.errors import BenchError
from bench.measure.latency.resources import (
    Reading,
    counter_of,
    energy_mj_per_image,
    peak_memory_mib,
)
from bench.measure.latency.rounds import Query, queries, synchronise
from bench.measure.modes import using_threads
from bench.plugins import load_plugin
from bench.records.store import RunStore
from bench.runtimes.contract import RUNTIMES, Run
from bench.training.reporter import Silent


def main(folder: Path) -> None:
    """Do the job in `folder` and leave the answer there."""
    job: Job = pickle.loads((folder / JOB_FILE).read_bytes())
    for file in job.plugins:
        load_plugin(file)
    info = job.info
    # Networks are rebuilt from the description of the data alone.
    blank = torch.zeros(0, info.height, info.width, info.channels, dtype=torch.uint8)
    none = ImageSet(blank, torch.zeros(0, dtype=torch.int64))
    device, store = torch.device(job.device), RunStore(job.results_dir)
    reporter = Silent()
    reporter.note = partial(_tell, "note")  # type: ignore[method-assign]
    place = Workplace(Dataset(info, none, none), store, device, reporter)
    if job.point is None:
        answer: object = measure_here(job, place, progress=partial(_tell, "progress"))
    else:
        answer = _resources(job, job.point, place)
    (folder / ANSWER_FILE).write_bytes(pickle.dumps(answer))


def _tell(kind: str, *said: object) -> None:
    print(json.dumps([kind, *said]), flush=True)


def _resources(job: Job, point: int, place: Workplace) -> dict[str, float | str | None]:
    """Return fields of a latency cell."""
    (record,), images_nchw = job.records, job.images_nchw.to(place.device)
    dead = frozenset(record.points[point].dead_blocks)
    net = rebuild(record, place)[point].net.inference_net(dead_blocks=dead)
    order = np.arange(len(images_nchw), dtype=np.int32)
    inputs = queries(images_nchw, order, batch_size=job.batch_sizes[0])
    with using_threads(job.threads), torch.inference_mode():
        run = RUNTIMES.get(job.runtimes[0])().prepare(net, images_nchw[:2])
        # Only where single images are the task.
        first_ms = _first_ms(run, images_nchw[:1]) if job.batch_sizes == (1,) else None
        memory = peak_memory_mib(run, next(inputs).x_nchw, net=net)
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


def _energy(run: Run, inputs: Iterator[Query], place: Workplace, *, seconds: float) -> Reading:
    counter, reason = counter_of(place.device)
    if counter is None:
        return Reading(None, reason)

    def one_batch() -> int:
        x_nchw, image_b = next(inputs)
        run(x_nchw)
        synchronise(place.device)
        return len(image_b)

    return Reading(energy_mj_per_image(one_batch, counter, seconds=seconds))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except BenchError as error:
        sys.exit(error.message)
