"""The state of a sweep: which trials there are, how far each is, and what its search is told.

A trial that is recorded is found again here and not run. Owns the states of trials, the document of
the sweep, and the records of trials that could not write their own; knows no Ray.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from bench.analysis.pareto import Point
from bench.config import RunSpec
from bench.engine.plan import Planned
from bench.errors import ConfigError
from bench.records.record import Environment, EpochRow, RunRecord
from bench.records.store import RunStore
from bench.records.sweep import SweepRecord, TrialRow, TrialStatus, save_sweep
from bench.records.upkeep import sound_record
from bench.sweep.options import Objective, SweepOptions, point_of
from bench.sweep.trials import Planner, Proposal, Search

_SAVE_EVERY_S = 5.0
_WELL = frozenset({"finished", "recorded"})


@dataclass(slots=True, eq=False)
class Progress:
    """How far one trial is. `points` are (cost, accuracy) on held-out images: the last epoch's, at
    the end those of the operating points. `trial` is None where the settings were refused."""

    tried: Proposal
    seed: int
    trial: Planned | None
    state: TrialStatus = "running"
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


class Listener(Protocol):
    """Is told how a sweep goes."""

    def began(self, ledger: Ledger) -> None:
        """A sweep is about to begin."""

    def changed(self, progress: Progress) -> None:
        """A trial has begun, done an epoch, or ended."""

    def note(self, message: str) -> None:
        """Something a user should know."""


class Ledger:
    """All trials of one sweep, in the order in which they were proposed."""

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
    ) -> None:
        """`searches`: one for each method."""
        self.objective, self.progress = objective, list[Progress]()
        self.total = sum(search.total for search in searches) * len(options.seeds)
        self._searches = {search.method: search for search in searches}
        self._name, self._planner, self._store, self._options = name, planner, store, options
        self._listener = listener
        self._created, self._saved_at = datetime.now(UTC).isoformat(timespec="seconds"), -math.inf

    def trials(self) -> Iterator[Progress]:
        """Yield the trials that are to be run; those that are recorded, or cannot be run, are
        settled on the way. A search is asked when its turn comes, to learn from those before."""
        runs = set[str]()
        turns = deque(self._searches.values())
        while turns:
            search = turns.popleft()
            tried = search.ask()
            if tried is None:
                continue
            turns.append(search)  # the methods take turns
            mine = self._trials_of(tried)
            self.progress.extend(mine)
            for progress in mine:
                if progress.trial is not None and progress.run in runs:
                    progress.trial, progress.reason = None, "the same run as another trial"
                runs.add(progress.run)
                if progress.trial is None:
                    self.settle(progress, "failed", progress.reason)
                elif not self._is_recorded(progress, progress.trial.spec):
                    yield progress

    def _trials_of(self, tried: Proposal) -> list[Progress]:
        seeds = self._options.seeds
        try:
            trials = self._planner.trials(tried, seeds)
        except ConfigError as error:
            return [Progress(tried, s, None, reason=error.message) for s in seeds]
        return [Progress(tried, trial.spec.seed, trial) for trial in trials]

    def _is_recorded(self, progress: Progress, spec: RunSpec) -> bool:
        """Settle a trial by its record, if it has one."""
        found = sound_record(self._store, spec)
        if found is None and self._options.scheduler != "fifo":
            # Trials that an earlier sweep stopped early are not taken up again.
            found = self._store.find(spec, status="stopped")
        if found is None:
            return False
        progress.history, progress.wall_s = list(found.history), found.wall_s
        progress.points = found.held_out_points or _last_point(progress.history)
        self.settle(progress, "recorded" if found.status == "finished" else "stopped", found.reason)
        return True

    def begin(self, progress: Progress) -> None:
        """A trial has its resources and starts, or starts again elsewhere from its checkpoint."""
        progress.begun, progress.history = time.monotonic(), []
        self._listener.changed(progress)

    def hear(self, progress: Progress, kind: str, what: Any) -> None:
        """Take what the process of a trial says, a `bench.engine.supervising.Message`."""
        if kind == "started":
            progress.environment = what
        elif kind == "note":
            self._listener.note(f"{progress.run}: {what}")
        elif kind == "epoch":
            progress.history.append(EpochRow.model_validate(what))
            progress.points = _last_point(progress.history)
            if progress.points:
                progress.score = self.objective.score(progress.points)
            self._listener.changed(progress)
        elif kind == "finished":
            progress.points = [(cost, accuracy) for cost, accuracy in what]
            self.settle(progress, "finished")
        elif kind == "failed":
            self.settle(progress, "failed", what["reason"])

    def settle(self, progress: Progress, state: TrialStatus, reason: str = "") -> None:
        """End a trial; when all seeds of its settings have ended, tell the search."""
        progress.state, progress.reason = state, " ".join(reason.split())
        if progress.begun is not None:
            progress.wall_s = time.monotonic() - progress.begun
        progress.score = self.objective.score(progress.points) if progress.points else None
        if state in {"stopped", "failed"}:
            self._write(progress)
        self._tell(progress.tried)
        self._listener.changed(progress)
        if time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            self.save(ended=False)

    def _tell(self, tried: Proposal) -> None:
        mine = [progress for progress in self.progress if progress.tried is tried]
        if not any(p.state == "running" for p in mine):
            counted = [p for p in mine if p.points and p.state != "failed"]
            values = self._values(counted) if counted else None
            self._searches[tried.method].tell(tried, values)

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

    def save(self, *, ended: bool) -> Path:
        """Write the document of the sweep; return its file."""
        self._saved_at = time.monotonic()
        return save_sweep(self.document(ended=ended), self._store.results_dir)

    def document(self, *, ended: bool) -> SweepRecord:
        """Return what the sweep is and how far it is, without the places of this machine."""
        dataset, pretrained = self._planner.dataset.info.name, self._options.pretrained
        told = self._options.model_dump(mode="json", exclude={"address"}) | {"dataset": dataset}
        if pretrained is not None:
            told["pretrained"] = pretrained.name
        best = {method: self.best(method) for method in self._searches}
        return SweepRecord(
            name=self._name,
            options=told,
            criterion=self.objective.sentence(),
            held_out=self._planner.options.held_out,
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
                groups.setdefault(progress.tried.number, []).append(progress)
        fit = [group for group in groups.values() if all(map(self._counts, group))]
        chosen = self.objective.chosen([self._values(group) for group in fit])
        return [progress for index in chosen for progress in fit[index]]

    def _counts(self, progress: Progress) -> bool:
        ended_well = progress.state in _WELL and progress.score is not None
        return ended_well and self.objective.allows(progress.points)


def _last_point(history: Sequence[EpochRow]) -> list[Point]:
    point = point_of(history[-1].values) if history else None
    return [] if point is None else [point]
