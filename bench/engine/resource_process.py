"""What a fresh process is needed for: `python -m bench.engine.resource_process FOLDER`.

The first call of all, memory, energy.

One network in one runtime at one batch size, so that nothing else has touched its memory before.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from bench.engine.building import rebuild
from bench.engine.resources import RESULT_FILE
from bench.engine.timing_process import Job, open_job
from bench.errors import BenchError
from bench.measure.energy import counter_of, energy_mj_per_image
from bench.measure.memory import Reading, peak_memory_mib
from bench.measure.modes import using_threads
from bench.measure.timing import Query, queries, synchronise
from bench.method import DynamicNet
from bench.runtimes.contract import RUNTIMES, Run


def main(folder: Path) -> None:
    """Measure the job in `folder`: the point of its run that it names."""
    job = open_job(folder)
    net = _network(job)
    order = np.arange(len(job.images_nchw), dtype=np.int32)
    inputs = queries(job.images_nchw, order, batch_size=job.task.batch_sizes[0])
    with using_threads(job.task.threads), torch.inference_mode():
        run = RUNTIMES.get(job.task.runtimes[0])().prepare(net, job.images_nchw[:2])
        first_ms = _first_ms(run, job)
        memory = peak_memory_mib(run, next(inputs).x_nchw, net=net)
        energy = _energy(job, run, inputs)
    values = {
        "first_ms": first_ms,
        "memory_mib": memory.value,
        "memory_reason": memory.reason,
        "energy_mj_per_image": energy.value,
        "energy_reason": energy.reason,
    }
    (folder / RESULT_FILE).write_text(json.dumps(values))


def _network(job: Job) -> DynamicNet:
    record, number = job.records[0], int(job.given["point"])
    dead = frozenset(record.points[number].dead_blocks)
    net: DynamicNet = rebuild(record, job.place)[number].net
    return net.inference_net(dead_blocks=dead)


def _first_ms(run: Run, job: Job) -> float | None:
    """Return the milliseconds of the process's first call, if single images are the task."""
    if job.task.batch_sizes != (1,):
        return None
    image_1chw = job.images_nchw[:1]
    synchronise(job.place.device)
    started = time.perf_counter_ns()
    run(image_1chw)
    synchronise(job.place.device)
    return (time.perf_counter_ns() - started) / 1e6


def _energy(job: Job, run: Run, inputs: Iterator[Query]) -> Reading:
    counter, reason = counter_of(job.place.device)
    if counter is None:
        return Reading(None, reason)

    def one_batch() -> int:
        x_nchw, image_b = next(inputs)
        run(x_nchw)
        synchronise(job.place.device)
        return len(image_b)

    seconds = job.task.profile.energy_s
    return Reading(energy_mj_per_image(one_batch, counter, seconds=seconds))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except BenchError as error:
        sys.exit(error.message)
