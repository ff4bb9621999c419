"""A process that does runs, its jobs on standard input.

Does each as `bench run` would and says how it goes; waits after each epoch to be told to go on, so
that a run that is stopped is stopped there. Ends when its parent has ended.
"""

from __future__ import annotations

import functools
import os
import queue
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import torch

from bench.data.images import Dataset
from bench.data.load import load_dataset
from bench.engine.building import Workplace, check_same_data, given_weights, pick_device
from bench.engine.single import perform
from bench.engine.supervising import TrainingJob, failure_of, say, unpacked
from bench.measure.environment import describe_environment
from bench.plugins import load_plugin
from bench.records.record import EpochRow, RunRecord
from bench.records.store import RunStore
from bench.training.reporter import Reporter

_TELL_EVERY_S = 0.2


class _Telling(Reporter):
    """Tells its parent all of a run; of the run that it starts from, no epochs."""

    def __init__(self, run: str, orders: queue.SimpleQueue[str]) -> None:
        self._mine, self._now, self._orders = run, "", orders
        self._images, self._told_at = 0, 0.0

    def run_started(self, run: str) -> None:
        self._now = run
        say("run", run)

    def phase_started(self, name: str, *, epochs: int, done: int, images_per_epoch: int) -> None:
        self._tell_images()
        values = {"epochs": epochs, "done": done, "images_per_epoch": images_per_epoch}
        say("phase", {"name": name, **values})

    def advanced(self, images: int) -> None:
        self._images += images
        if time.monotonic() - self._told_at > _TELL_EVERY_S:
            self._tell_images()

    def epoch_finished(self, row: EpochRow) -> None:
        self._tell_images()
        if self._now == self._mine:
            say("epoch", row.model_dump(mode="json"))
            self._orders.get()

    def note(self, message: str) -> None:
        say("note", message)

    def _tell_images(self) -> None:
        if self._images:
            say("images", self._images)
        self._images, self._told_at = 0, time.monotonic()


def main() -> None:
    """Do the jobs on standard input, one after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    while True:
        job: TrainingJob = unpacked(orders.get())
        try:
            record = do(job, orders)
        except Exception as error:
            say("failed", asdict(failure_of(job.spec, error)))
        else:
            say("finished", record.held_out_points)


def do(job: TrainingJob, orders: queue.SimpleQueue[str]) -> RunRecord:
    """Return the record of the run of `job`, done after the run that it starts from.

    Raises:
        BenchError: it cannot be done; there is a record of that.
    """
    device = pick_device(job.device)
    torch.set_num_threads(job.threads)
    say("started", describe_environment(device).values)
    for file in job.plugins:
        load_plugin(file)
    place = Workplace(
        _dataset(job.dataset, job.data_dir, job.workers),
        RunStore(job.results_dir),
        device,
        _Telling(job.spec.run, orders),
        given_weights(job.weights),
    )
    check_same_data(job.spec, place.dataset)
    if job.needs is not None:
        perform(job.needs, place)
    return perform(job.spec, place)


@functools.lru_cache(maxsize=1)
def _dataset(name: str, data_dir: Path, workers: int | None) -> Dataset:
    return load_dataset(name, data_dir=data_dir, workers=workers)


def _listen(orders: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        orders.put(line)
    os._exit(1)  # no parent: the command was interrupted, or its machine is gone
