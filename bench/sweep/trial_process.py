"""The process of one trial: `python -m bench.sweep.trial_process`, its job on standard input.

Does one run as `bench run` would and says how it goes; waits after each epoch to be told to go on,
so that a trial that is stopped is stopped there. Ends when nobody listens any more.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
from pathlib import Path

import torch

from bench.config import RunSpec
from bench.data.load import load_dataset
from bench.engine.building import Workplace, check_same_data
from bench.engine.devices import pick_device
from bench.engine.plan import METHODS
from bench.engine.single import perform
from bench.errors import BenchError
from bench.measure.environment import describe_environment
from bench.networks.weights import read_weights
from bench.records.record import EpochRow
from bench.records.store import RunStore
from bench.sweep.supervising import Job, said_line
from bench.sweep.trials import held_out_points
from bench.training.reporter import Silent

_GRACE_S = 30.0


class _Talking(Silent):
    """Tells the epochs of the trial itself, not those of the run that it starts from."""

    def __init__(self, run: str) -> None:
        self._mine, self._now = run, ""
        self._go_on = threading.Semaphore(0)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for _ in sys.stdin:
            self._go_on.release()
        os._exit(1)  # nobody listens: the sweep was interrupted, or its machine is gone

    def run_started(self, run: str) -> None:
        self._now = run
        if run != self._mine:
            self.note(f"starts from {run}")

    def epoch_finished(self, row: EpochRow) -> None:
        if self._now == self._mine:
            say("epoch", row.model_dump(mode="json"))
            self._go_on.acquire()

    def note(self, message: str) -> None:
        say("note", message)


def say(kind: str, what: object) -> None:
    """Say one thing to whoever watches this process."""
    print(said_line(kind, what), flush=True)  # type: ignore[arg-type]


def main() -> None:
    """Do the job on standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever watches decides
    job = Job(**json.loads(sys.stdin.readline()))
    if job.time_limit_s is not None:
        # For a hang that no other thread survives, when the watcher is gone too.
        faulthandler.dump_traceback_later(job.time_limit_s + _GRACE_S, exit=True)
    try:
        do(job)
    except BenchError as error:
        say("failed", error.message)
    except Exception as error:
        say("failed", repr(error))


def do(job: Job) -> None:
    """Do the run of `job`, after the run it starts from.

    Raises:
        BenchError: it cannot be done; there is a record of that.
    """
    spec = RunSpec.model_validate(job.spec)
    device = pick_device(job.device)
    torch.set_num_threads(job.threads)
    say("started", describe_environment(device).values)
    for file in job.plugins:
        METHODS.add_file(Path(file))
    place = Workplace(
        load_dataset(job.dataset, data_dir=Path(job.data_dir)),
        RunStore(Path(job.results_dir)),
        device,
        _Talking(spec.run),
        None if job.weights is None else read_weights(Path(job.weights)),
    )
    check_same_data(spec, place.dataset)
    if job.needs is not None:
        perform(RunSpec.model_validate(job.needs), place)
    record = perform(spec, place)
    say("finished", held_out_points(record))


if __name__ == "__main__":
    main()
