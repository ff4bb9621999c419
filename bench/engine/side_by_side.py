"""All runs of a command: which may begin, how many at a time, on how many threads.

A run begins when the one that it starts from is finished, in the order in which runs were asked
for; one that fails does not stop the others. Owns the order and the choice of threads; a run itself
is single.py's, and what a process of its own says supervising.py's.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, cast

from bench.config import RunSpec
from bench.engine.building import Workplace
from bench.engine.decisions import note_changes
from bench.engine.plan import Planned
from bench.engine.single import perform, recorded
from bench.engine.supervising import Failure, Message, RunProcess, TrainingJob, failure_of
from bench.errors import BenchError, RunFailed
from bench.folders import Folders, from_home
from bench.machine import available_memory_bytes, usable_cores
from bench.measure.modes import using_threads
from bench.method import METHODS
from bench.networks.trunk import BACKBONES, split_name
from bench.options import RunOptions
from bench.plugins import plugin_files
from bench.records.record import EpochRow, RunRecord
from bench.training.reporter import Overall, Reporter

_FIRST_ESTIMATE_S = 60.0


class OverallProgress:
    """All runs that are to be done, by name with the images that each will see."""

    def __init__(self, images: Mapping[str, int], reporter: Reporter) -> None:
        self._images, self._reporter = dict(images), reporter
        self._seen = dict.fromkeys(images, 0)
        self._found, self._done = 0, 0
        self._begun, self._lock = time.monotonic(), threading.Lock()
        self._estimated = False

    def listener(self) -> Reporter:
        """Return who listens to one run after the other; each has a place of its own."""
        return cast("Reporter", _CountingReporter(self, self._reporter.beside()))

    def seen(self, run: str, images: int) -> None:
        """Count images of a run, from any thread."""
        with self._lock:
            if run in self._seen:
                self._seen[run] = min(self._seen[run] + images, self._images[run])
            self._tell()

    def found(self, run: str, images: int) -> None:
        """Count images that a run had seen before it was interrupted."""
        self._found += images
        self.seen(run, images)

    def ended(self, run: str) -> None:
        """A run is finished, or has failed."""
        self._done += 1
        self.seen(run, self._images[run])
        runs = len(self._images)
        if runs > 1:
            left = f", about {self._left()} left" if self._done < runs else ""
            self._reporter.note(f"{run}: {self._done} of {runs} runs done{left}")

    def _tell(self) -> None:
        runs = len(self._images)
        if runs > 1:
            if not self._estimated and time.monotonic() - self._begun > _FIRST_ESTIMATE_S:
                self._estimated = True
                self._reporter.note(f"{runs} runs: about {self._left()} in all at this rate")
            seen, total = sum(self._seen.values()), sum(self._images.values())
            self._reporter.overall(Overall(self._done, runs, seen, total))

    def _left(self) -> str:
        """Return how long the rest takes at this rate: hours, minutes, seconds."""
        seen, total = sum(self._seen.values()), sum(self._images.values())
        spent_s = time.monotonic() - self._begun
        left_s = spent_s * (total - seen) / max(1, seen - self._found)
        return str(timedelta(seconds=round(left_s))).removeprefix("0:")


class _CountingReporter:
    """Passes all on, and counts."""

    def __init__(self, progress: OverallProgress, reporter: Reporter) -> None:
        self._progress, self._reporter, self._run = progress, reporter, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reporter, name)

    def run_started(self, run: str) -> None:
        self._run = run
        self._reporter.run_started(run)

    def phase_started(self, name: str, **counts: int) -> None:
        self._progress.found(self._run, counts["done"] * counts["images_per_epoch"])
        self._reporter.phase_started(name, **counts)

    def advanced(self, images: int) -> None:
        self._progress.seen(self._run, images)
        self._reporter.advanced(images)


# A process is up after some three seconds: as long as training on these many of the smallest.
_WORTH_A_PROCESS_IMAGES = 20_000
# In a batch of fewer pixels a second thread is no gain: 8 x 8 times 32 gives 1.0, 32 x 32 times 128
# gives 1.5 times the speed of one.
_WORTH_THREADS_PIXELS = 2**16
_PROCESS_BYTES = 2**30
_COPIES_OF_IMAGES = 4


@dataclass(frozen=True, slots=True)
class Command:
    """The runs of one command, and what they are done with.

    `here`: no other process would find its images.
    """

    options: RunOptions
    folders: Folders
    place: Workplace
    plan: Sequence[Planned]
    here: bool = False


class Parallelism(NamedTuple):
    """How many runs at a time, in processes of their own unless `here`; None: torch's threads."""

    processes: int
    threads: int | None
    here: bool


class _Task(NamedTuple):
    spec: RunSpec
    after: str | None  # the run that it starts from, if that is to be done here
    command: Command

    @property
    def images(self) -> int:
        """Images of all epochs and of the evaluation: what a run costs, roughly."""
        data = self.command.place.dataset
        return self.spec.budget.epochs * len(data.train) + len(data.test)


def perform_all(commands: Sequence[Command], reporter: Reporter, *, until: float = inf) -> RunQueue:
    """Do the runs of all commands that are not finished, side by side where cores allow it.

    Those that have not begun at `until`, a time of the monotonic clock, are left.
    """
    tasks = _tasks(commands)
    parallel, runs = parallelism_of(list(tasks.values())), RunQueue(tasks)
    progress = OverallProgress({run: task.images for run, task in runs.waiting.items()}, reporter)
    perform_them = _one_by_one if parallel.here else _side_by_side
    perform_them(runs, parallel, progress, until=until)
    return runs


def parallelism_of(tasks: Sequence[_Task]) -> Parallelism:
    """Return how `tasks` are done: the same for the same command, whatever is finished of it.

    The number of threads is in the last digits of every sum, so it may not depend on chance.
    """
    if any(task.command.place.device.type != "cpu" for task in tasks):
        return Parallelism(1, None, here=True)
    at_hand = any(task.command.here or _is_only_here(task.spec) for task in tasks)
    cores = max(1, int(usable_cores()))
    # Runs that read their images share the cores with those who read: one after the other.
    streamed = any(not task.command.place.dataset.train.held_bytes for task in tasks)
    width = 1 if streamed else min(_width(tasks), cores)
    given = max((task.command.options.threads or 0 for task in tasks), default=0)
    # A list has a number for each level of nesting.
    of_environment = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    threads = given or (int(of_environment) if of_environment.isdigit() else 0)
    if not threads:
        pixels = [t.spec.budget.batch_size * t.command.place.dataset.train.pixels for t in tasks]
        large = max(pixels, default=0) >= _WORTH_THREADS_PIXELS
        threads = cores // width if large else 1
    processes = max(1, min(width, cores // threads, _room_for(tasks)))
    small = sum(task.images for task in tasks) < _WORTH_A_PROCESS_IMAGES
    return Parallelism(processes, threads, here=small or at_hand or processes == threads == 1)


def _is_only_here(spec: RunSpec) -> bool:
    """Whether another process would not find what a run is of."""
    family = split_name(spec.backbone.name)[0]
    return METHODS.is_only_here(spec.method) or BACKBONES.is_only_here(family)


def job_of(
    run: Planned, options: RunOptions, folders: Folders, *, device: str, threads: int
) -> TrainingJob:
    """Return the job of a run for a process of its own."""
    images, weights = Path(from_home(options.dataset)), options.pretrained
    return TrainingJob(
        run.spec,
        run.needs,
        # The name, or the folder as it is found from anywhere.
        dataset=str(images.absolute()) if images.exists() else options.dataset,
        data_dir=folders.data.absolute(),
        results_dir=folders.results.absolute(),
        weights=weights and weights.absolute(),
        plugins=plugin_files(),
        device=device,
        threads=threads,
        workers=options.workers,
    )


class RunQueue:
    """Runs that wait, and records and failures of the others, by the name of the run."""

    def __init__(self, tasks: Mapping[str, _Task]) -> None:
        self.records: dict[str, RunRecord] = {}
        self.failures: dict[str, Failure] = {}
        self.waiting = dict(tasks)
        for run, task in tasks.items():
            with suppress(BenchError, OSError):  # it will say why when it is begun
                found = recorded(task.spec, task.command.place)
                if found is not None:
                    note_changes(task.spec, found, task.command.place)
                    self.records[run] = found
                    del self.waiting[run]

    def next(self) -> _Task | None:
        """Take the first run that may begin; those whose start failed have failed too."""
        for run, task in list(self.waiting.items()):
            if task.after in self.failures:
                reason = f"the run it starts from failed: {task.after}"
                self.fail(failure_of(task.spec, RunFailed(reason)), task)
            elif task.after is None or task.after in self.records:
                if task.after is not None:
                    note = f"{task.spec.method} starts from {task.after}"
                    task.command.place.reporter.note(note)
                return self.waiting.pop(run)
        return None

    def fail(self, failure: Failure, task: _Task) -> None:
        """Note that a run has failed."""
        self.waiting.pop(task.spec.run, None)
        self.failures[task.spec.run] = failure
        task.command.place.reporter.note(f"{failure.run} failed: {failure.reason}")


def _tasks(commands: Sequence[Command]) -> dict[str, _Task]:
    """Return the runs of all commands, each once, after those that they start from."""
    runs: dict[str, _Task] = {}
    for command in commands:
        for item in command.plan:
            if item.needs is not None:
                runs.setdefault(item.needs.run, _Task(item.needs, None, command))
            after = None if item.needs is None else item.needs.run
            runs.setdefault(item.spec.run, _Task(item.spec, after, command))
    return runs


def _width(tasks: Sequence[_Task]) -> int:
    """Return how many runs at most wait for equally many others."""
    depths: dict[str, int] = {}
    for task in tasks:
        depths[task.spec.run] = 0 if task.after is None else depths[task.after] + 1
    return max((list(depths.values()).count(depth) for depth in set(depths.values())), default=1)


def _room_for(tasks: Sequence[_Task]) -> int:
    """Return how many processes have room in memory, each with images of its own."""
    sets = [task.command.place.dataset for task in tasks]
    largest = max((d.train.held_bytes + d.test.held_bytes for d in sets), default=0)
    return available_memory_bytes() // (_PROCESS_BYTES + _COPIES_OF_IMAGES * largest)


def _one_by_one(
    runs: RunQueue, parallel: Parallelism, progress: OverallProgress, *, until: float
) -> None:
    listener = progress.listener()
    while time.monotonic() < until:
        task = runs.next()
        if task is None:
            return
        threads = nullcontext() if parallel.threads is None else using_threads(parallel.threads)
        try:
            with threads:
                record = perform(task.spec, replace(task.command.place, reporter=listener))
            runs.records[task.spec.run] = record
        except Exception as error:
            runs.fail(failure_of(task.spec, error), task)
        progress.ended(task.spec.run)


def _side_by_side(
    runs: RunQueue, parallel: Parallelism, progress: OverallProgress, *, until: float
) -> None:
    assert parallel.threads is not None
    idle = [_Worker(progress.listener()) for _ in range(parallel.processes)]
    running: dict[Future[Message], tuple[_Task, _Worker]] = {}
    # The processes are left first, also by an interrupt: their runs end then, and the pool's wait.
    with ThreadPoolExecutor(parallel.processes) as pool, ExitStack() as stack:
        for worker in idle:
            stack.callback(worker.end)
        while True:
            while idle and time.monotonic() < until and (task := runs.next()) is not None:
                command, worker = task.command, idle.pop()
                job = job_of(
                    Planned(task.spec),
                    command.options,
                    command.folders,
                    device=str(command.place.device),
                    threads=parallel.threads,
                )
                worker.start(job)
                running[pool.submit(worker.do, job)] = task, worker
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, worker = running.pop(future)
                said, run = future.result(), task.spec.run
                if said.kind == "finished":
                    runs.records[run] = task.command.place.store.get(run)
                else:
                    runs.fail(Failure(**{"run": run, **said.what}), task)
                progress.ended(run)
                idle.append(worker)


class _Worker:
    """Where one run after the other is done, in the same process while all is well."""

    def __init__(self, listener: Reporter) -> None:
        self._process: RunProcess | None = None
        self._tell: Mapping[str, Callable[[Any], None]] = {
            "run": listener.run_started,
            "phase": lambda what: listener.phase_started(**what),
            "images": listener.advanced,
            "epoch": lambda what: listener.epoch_finished(EpochRow.model_validate(what)),
            "note": listener.note,
            "printed": listener.note,
        }

    def start(self, job: TrainingJob) -> None:
        """See that there is a process."""
        self._process = self._process or RunProcess(job)

    def do(self, job: TrainingJob) -> Message:
        """Return how the run of `job` ended, having told the listener how it went."""
        assert self._process is not None
        for said in self._process.do(job):
            if said.kind in self._tell:
                self._tell[said.kind](said.what)
        if said.kind == "failed":
            self.end()
        return said

    def end(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        if process is not None:
            process.end()
