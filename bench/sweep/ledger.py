"""The state of a sweep: which trials there are, how far each is, and what its search is told.

A trial that is recorded is found again here and not run. Owns the states of trials, a trial's point
on the axis of time, the document of the sweep, and the records of trials that could not write their
own; knows no Ray.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from bench.analysis.pareto import Point
from bench.engine.building import Workplace, backbone_of
from bench.engine.latency.timing import time_records
from bench.engine.plan import Planned
from bench.errors import ConfigError
from bench.networks.gated import GatedResNet
from bench.records.record import Environment, EpochRow, LatencyCell, PointRecord, RunRecord
from bench.records.store import RunStore
from bench.records.sweep import SweepRecord, TrialRow, save_sweep
from bench.records.upkeep import sound_record
from bench.runtimes.contract import RUNTIMES
from bench.sweep.options import Objective, SweepOptions, point_of
from bench.sweep.trials import Planner, Proposal, Search

_PROFILE = "smoke"
_SAVE_EVERY_S = 5.0


class Clock:
    """Times trials at batch 1, each beside the dense network: of trials at different hours only
    these ratios can be compared. Images are test images, whose labels are not read."""

    def __init__(self, runtime: str, place: Workplace, *, threads: int) -> None:
        self._runtime, self._place, self._threads = runtime, place, threads

    def check(self, trial: Planned) -> None:
        """Refuse a runtime that does not run the dense network here.

        Raises:
            UnknownNameError: there is no such runtime.
            ConfigError: it does not; the reason is said.
        """
        net = GatedResNet(backbone_of(trial.spec, self._place)).to(self._place.device).eval()
        refused = RUNTIMES.get(self._runtime)().refuses(net, self._place.device, self._threads)
        if refused is not None:
            raise ConfigError(
                f"Nothing can be timed in '{self._runtime}' here: {refused}",
                hint="See bench list runtimes, or use --objectives accuracy,nflops.",
            )

    def points(self, record: RunRecord) -> tuple[list[Point], str]:
        """Return (time / dense time, held-out accuracy) of each operating point that could be
        timed, and why others could not."""
        if not all(self._cells(point) for point in record.points):
            asked = {"profile": _PROFILE, "threads": self._threads, "runtimes": [self._runtime]}
            timed = time_records([record], self._place, **asked)  # type: ignore[arg-type]
            record = timed.get(record.run, record)
        found, reason = list[Point](), ""
        for point in record.points:
            cells = self._cells(point)
            speedup = cells[-1].speedup if cells else None
            if speedup and point.accuracy_held_out is not None:
                found.append((1 / speedup, point.accuracy_held_out))
            else:
                reason = f"not timed in {self._runtime}: {cells[-1].reason if cells else '?'}"
        return found, reason

    def _cells(self, point: PointRecord) -> list[LatencyCell]:
        wanted = (self._runtime, 1, self._threads)
        return [c for c in point.latency if (c.runtime, c.batch_size, c.threads) == wanted]


State = Literal["running", "finished", "recorded", "stopped", "failed"]
_WELL = frozenset({"finished", "recorded"})


@dataclass(slots=True, eq=False)
class Progress:
    """How far one trial is. `points` are (cost, accuracy) on held-out images: the last epoch's, at
    the end those of the operating points. `trial` is None where the settings were refused."""

    tried: Proposal
    seed: int
    trial: Planned | None
    state: State = "running"
    reason: str = ""
    history: list[EpochRow] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    score: float | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    begun: float | None = None  # seconds of a monotonic clock
    wall_s: float = 0.0

    @property
    def run(self) -> str:
        """The name of the run; "" where there is none."""
        return "" if self.trial is None else self.trial.spec.run

    @property
    def epochs(self) -> int:
        """How many epochs the run has in all."""
        return 0 if self.trial is None else self.trial.spec.budget.epochs

    @property
    def share(self) -> float:
        """How much of the training is done, 0 to 1."""
        if self.state != "running":
            return 1.0
        return min(1.0, len(self.history) / self.epochs) if self.epochs else 0.0

    def row(self) -> TrialRow:
        """Return what the document of the sweep says of it."""
        return TrialRow(
            method=self.tried.method,
            settings=dict(self.tried.settings),
            seed=self.seed,
            run=self.run,
            status=self.state,
            reason=self.reason,
            points=tuple(self.points),
            score=self.score,
            wall_s=self.wall_s,
        )


class RecordedTrial(NamedTuple):
    """A trial that was found on record: (percent of the training, score) after each epoch."""

    run: str
    method: str
    steps: list[tuple[float, float]]


class Listener(Protocol):
    """Is told how a sweep goes."""

    def began(self, ledger: Ledger) -> None:
        """A sweep is about to begin."""

    def changed(self, progress: Progress) -> None:
        """A trial has begun, done an epoch, or ended."""

    def note(self, message: str) -> None:
        """Something a user should know."""


class Ledger:
    """All trials of one sweep, in the order in which they were asked for."""

    def __init__(
        self,
        searches: Sequence[Search],
        planner: Planner,
        store: RunStore,
        *,
        name: str,
        options: SweepOptions,
        objective: Objective,
        listener: Listener,
        clock: Clock | None = None,
    ) -> None:
        """`clock`: what times trials, where time is an objective."""
        self.objective, self.progress = objective, list[Progress]()
        self.total = sum(search.total for search in searches) * len(options.seeds)
        self._name, self._planner, self._store, self._options = name, planner, store, options
        self._listener, self._clock = listener, clock
        # Trials that an earlier sweep stopped early are not taken up again.
        self._stopped_count = options.scheduler != "fifo"
        self._turns = deque(searches)
        self._asked_of = dict[int, tuple[Search, list[Progress]]]()
        self._waiting = deque[Progress]()
        self._runs = set[str]()
        self._recalled = list[RecordedTrial]()
        self._created, self._saved_at = datetime.now(UTC).isoformat(timespec="seconds"), -math.inf

    @property
    def results_dir(self) -> Path:
        return self._store.results_dir

    def note(self, progress: Progress, message: str) -> None:
        """Pass on what a trial says."""
        self._listener.note(f"{progress.run}: {message}")

    def next_trial(self) -> Progress | None:
        """Return the next trial that is not recorded yet; None when there are no more.

        Recorded ones on the way are settled at once.
        """
        for progress in iter(self._take, None):
            found = self._recorded(progress)
            if found is None and progress.trial is not None:
                return progress
            if found is not None:
                self._settle_by(progress, found)
        return None

    def _take(self) -> Progress | None:
        while not self._waiting:
            if not self._turns:
                return None
            search = self._turns.popleft()
            tried = search.ask()
            if tried is None:
                continue
            self._turns.append(search)  # the methods take turns
            trials = self._trials_of(tried)
            self._asked_of[id(tried)] = search, trials
            self._waiting.extend(trials)
        progress = self._waiting.popleft()
        self.progress.append(progress)
        twin = progress.run in self._runs
        self._runs.add(progress.run)
        if progress.trial is None or twin:
            reason = progress.reason or "the same run as another trial"
            progress.trial = None
            self.settle(progress, "failed", reason)
        return progress

    def _trials_of(self, tried: Proposal) -> list[Progress]:
        seeds = self._options.seeds
        try:
            trials = self._planner.trials(tried, seeds)
        except ConfigError as error:
            return [Progress(tried, s, None, reason=error.message) for s in seeds]
        return [Progress(tried, trial.spec.seed, trial) for trial in trials]

    def _recorded(self, progress: Progress) -> RunRecord | None:
        if progress.trial is None:
            return None
        found = sound_record(self._store, progress.trial.spec)
        if found is None and self._stopped_count:
            found = self._store.find(progress.trial.spec, status="stopped")
        return found

    def _settle_by(self, progress: Progress, record: RunRecord) -> None:
        progress.history = list(record.history)
        progress.points = record.held_out_points or _last_point(progress.history)
        state: State = "recorded" if record.status == "finished" else "stopped"
        progress.wall_s = record.wall_s
        self.settle(progress, state, record.reason)
        self._recalled.append(
            RecordedTrial(progress.run, progress.tried.method, self._steps(progress))
        )

    def _steps(self, progress: Progress) -> list[tuple[float, float]]:
        judged = (
            self.objective.after_epoch(row.values, done=done, epochs=progress.epochs)
            for done, row in enumerate(progress.history, start=1)
        )
        steps = [step for step in judged if step is not None]
        if progress.state == "recorded" and progress.score is not None:
            steps.append((100.0, progress.score))
        return steps

    def recalled(self) -> list[RecordedTrial]:
        """Return the trials found on record since the last call, which no scheduler has seen."""
        found, self._recalled = self._recalled, []
        return found

    def begin(self, progress: Progress) -> None:
        """A trial has its resources and starts, or starts again elsewhere from its checkpoint."""
        progress.begun, progress.history = time.monotonic(), []
        self._listener.changed(progress)

    def epoch(self, progress: Progress, row: EpochRow) -> None:
        """Take an epoch of a trial."""
        progress.history.append(row)
        progress.points = [] if self._clock else _last_point(progress.history)
        if progress.points:
            progress.score = self.objective.score(progress.points)
        self._listener.changed(progress)

    def settle(self, progress: Progress, state: State, reason: str = "") -> None:
        """End a trial; when all seeds of its settings have ended, tell the search."""
        progress.state, progress.reason = state, " ".join(reason.split())
        if progress.begun is not None:
            progress.wall_s = time.monotonic() - progress.begun
        if self._clock is not None:
            self._time(progress, self._clock)
        progress.score = self.objective.score(progress.points) if progress.points else None
        if state in {"stopped", "failed"}:
            self._write(progress)
        self._tell(progress.tried)
        self._listener.changed(progress)
        if time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            self.save(ended=False)

    def _time(self, progress: Progress, clock: Clock) -> None:
        progress.points = []
        record = progress.trial and self._store.find(progress.trial.spec)
        if record and progress.state in _WELL:
            progress.points, said = clock.points(record)
            progress.reason = progress.reason or said

    def _tell(self, tried: Proposal) -> None:
        search, mine = self._asked_of[id(tried)]
        if not any(p.state == "running" for p in mine):
            counted = [p for p in mine if p.points and p.state != "failed"]
            search.tell(tried, self._values(counted) if counted else None)

    def _values(self, seeds: Sequence[Progress]) -> tuple[float, ...]:
        """Return the means over the seeds of some settings of what the search is told."""
        columns = zip(*(self.objective.values(p.points) for p in seeds), strict=True)
        return tuple(sum(column) / len(column) for column in columns)

    def _write(self, progress: Progress) -> None:
        """Write the record of a trial that was ended from outside."""
        if progress.trial is None or progress.begun is None:
            return
        spec = progress.trial.spec
        if self._store.find(spec) is not None:
            return
        dataset = self._planner.dataset
        record = RunRecord(
            run=spec.run,
            spec=spec,
            status="stopped" if progress.state == "stopped" else "failed",
            reason=progress.reason,
            dataset_title=dataset.info.title,
            synthetic=dataset.info.synthetic,
            test_images=len(dataset.test),
            history=tuple(progress.history),
            environment=Environment(values=progress.environment),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            wall_s=progress.wall_s,
        )
        self._store.save(record)

    def save(self, *, ended: bool) -> None:
        """Write the document of the sweep."""
        save_sweep(self.document(ended=ended), self.results_dir)
        self._saved_at = time.monotonic()

    def document(self, *, ended: bool) -> SweepRecord:
        """Return what the sweep is and how far it is, without the places of this machine."""
        dataset, pretrained = self._planner.dataset.info.name, self._options.pretrained
        told = self._options.model_dump(mode="json", exclude={"address"}) | {"dataset": dataset}
        if pretrained is not None:
            told["pretrained"] = pretrained.name
        methods = dict.fromkeys(progress.tried.method for progress in self.progress)
        best = {method: self.best(method) for method in methods}
        return SweepRecord(
            name=self._name,
            options=told,
            criterion=self.objective.sentence(),
            held_out=self._planner.options.held_out,
            runtime=self.objective.runtime,
            corner=self.objective.corner,
            created=self._created,
            ended=ended,
            trials=tuple(progress.row() for progress in self.progress),
            chosen={m: tuple(p.run for p in group) for m, group in best.items() if group},
        )

    def records(self) -> Iterator[RunRecord]:
        """Yield the records of all trials that have one."""
        for progress in self.progress:
            state = progress.state
            if progress.trial is not None and state != "running":
                status = "finished" if state == "recorded" else state
                found = self._store.find(progress.trial.spec, status=status)
                if found is not None:
                    yield found

    def best(self, method: str) -> list[Progress]:
        """Return the trials, one for each seed, of the settings of a method that the objective
        chooses, among settings of which every seed has ended well and keeps to the budget."""
        groups: dict[int, list[Progress]] = {}
        for progress in self.progress:
            if progress.tried.method == method:
                groups.setdefault(id(progress.tried), []).append(progress)
        fit = [group for group in groups.values() if all(map(self._counts, group))]
        chosen = self.objective.chosen([self._values(group) for group in fit])
        return [progress for index in chosen for progress in fit[index]]

    def _counts(self, progress: Progress) -> bool:
        ended_well = progress.state in _WELL and progress.score is not None
        return ended_well and self.objective.allows(progress.points)


def _last_point(history: Sequence[EpochRow]) -> list[Point]:
    point = point_of(history[-1].values) if history else None
    return [] if point is None else [point]
