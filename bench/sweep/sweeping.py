"""One sweep from options to the choice: plan, schedule, keep the document up to date.

Owns the order of the steps and the name of a sweep.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from bench.config import canonical_json
from bench.data.load import load_dataset
from bench.engine.building import Workplace, given_weights, pick_device
from bench.engine.fitting import fitted
from bench.engine.side_by_side import job_of
from bench.errors import RecordError
from bench.folders import Folders
from bench.plain_text import tame
from bench.records.record import RunRecord
from bench.records.store import RunStore
from bench.records.sweep import SweepRecord, TrialRow, load_sweep, save_sweep
from bench.sweep.ledger import Clock, Ledger, Listener, Progress
from bench.sweep.options import SweepOptions, objective_of
from bench.sweep.scheduling import schedule
from bench.sweep.trials import Planner, Proposals, planner, proposals, spaces_of
from bench.sweep.worker import TrialJob, sign
from bench.training.reporter import Silent

_SAVE_EVERY_S = 5.0
# What changes where and how fast a sweep runs, and none of its results.
_NOT_IN_NAME = ("address", "threads", "workers", "gpus_per_trial", "device", "time_limit_s")


@dataclass(frozen=True, slots=True)
class Swept:
    """A sweep after its end, or up to where it was interrupted."""

    sweep: SweepRecord
    records: list[RunRecord]


def sweep(options: SweepOptions, folders: Folders, *, listener: Listener) -> Swept:
    """Run all trials that are not recorded yet, and choose the best of each method.

    Raises:
        UserError: the request cannot be served as given; nothing has been started.
        KeyboardInterrupt: the user interrupted; what is done is kept, and the document says so.
    """
    objective_of(options, 2)  # before anything is read
    if options.address:
        listener.note(f"On the Ray cluster at {options.address}")
    else:
        pick_device(options.device)  # here or never; a cluster may have others
    store = RunStore(folders.results)
    dataset = load_dataset(options.dataset, data_dir=folders.data)
    weights = given_weights(options.pretrained, backbone=options.backbone_name)
    plan = planner(options, dataset, weights)
    if weights is not None:
        device = pick_device("auto")
        read = fitted(weights, plan.request, dataset, device=device, note=listener.note)
        plan = replace(plan, weights=read)
    name = name_of(options, plan)
    objective = objective_of(options, dataset.info.num_classes)
    clock = None
    if objective.runtime:
        place = Workplace(dataset, store, pick_device(options.device), Silent(), plan.weights)
        clock = Clock(objective.runtime, place, threads=options.threads)
    searches = _searches(options, plan, clock, known=_known(store.results_dir, name))
    book = _Book(name, options, plan, store, listener)
    ledger = Ledger(
        searches, plan, store, options=options, objective=objective, listener=book, clock=clock
    )
    book.began(ledger)
    with sign(store.results_dir) as shared:

        def job(progress: Progress, device: str) -> TrialJob:
            trial, threads = progress.trial, options.threads
            assert trial is not None
            made = job_of(trial.spec, options, folders=folders, device=device, threads=threads)
            needs = None if trial.needs is None else trial.needs.model_dump(mode="json")
            made = replace(made, needs=needs, time_limit_s=options.time_limit_s)
            return TrialJob(made, str(shared), objective.budget, objective.num_classes)

        try:
            schedule(ledger, options, job)
            book.close(ended=True)
        finally:
            book.close(ended=False)
    return Swept(book.record(ended=True), list(ledger.records()))


def name_of(options: SweepOptions, plan: Planner) -> str:
    """Return the name of a sweep: what it is about, and a hash of all that matters to it."""
    told = options.model_dump(mode="json", exclude=set(_NOT_IN_NAME))
    told |= {"data": plan.dataset.info.fingerprint, "held_out": plan.request.held_out}
    told["pretrained"] = None if plan.weights is None else plan.weights.sha256
    digest = hashlib.sha256(canonical_json(told).encode()).hexdigest()[:8]
    methods = "_".join(plan.request.methods)[:40]
    about = (tame(part) for part in (plan.dataset.info.name, options.backbone_name))
    return "-".join((methods, *about, digest))


def _searches(
    options: SweepOptions, plan: Planner, clock: Clock | None, *, known: Sequence[TrialRow]
) -> list[Proposals]:
    """Return one search for each method; what cannot run is refused here.

    Raises:
        ConfigError: ranges do not fit the search, or the first settings of a method are refused,
            or the dense network cannot be timed.
    """
    found: list[Proposals] = []
    for method in plan.request.methods:
        spaces = spaces_of(method, options)
        before = [row.settings for row in known if row.method == method]
        search = partial(proposals, options.search, method, spaces, samples=options.samples)
        again, probe = search(known=before), search().ask()
        if probe is not None:
            first, *_ = plan.trials(probe, options.seeds)
            if clock is not None:
                clock.check(first)
        found.append(again)
    return found


def _known(results_dir: Path, name: str) -> Sequence[TrialRow]:
    """Return the trials of this sweep up to where it was interrupted."""
    with suppress(RecordError):
        earlier = load_sweep(results_dir, name)
        if earlier is not None:
            seeds = {row.seed for row in earlier.trials}
            return [row for row in earlier.trials if row.seed == min(seeds)]
    return ()


class _Book:
    """Keeps the document of a sweep on disk while it runs; passes all on to the listener."""

    def __init__(
        self, name: str, options: SweepOptions, plan: Planner, store: RunStore, listener: Listener
    ) -> None:
        self._name, self._options, self._plan, self._store = name, options, plan, store
        self._listener, self.note = listener, listener.note
        self._created = datetime.now(UTC).isoformat(timespec="seconds")
        self._saved_at, self._closed = float("-inf"), False
        self._ledger: Ledger | None = None

    def began(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._listener.began(ledger)

    def changed(self, progress: Progress) -> None:
        self._listener.changed(progress)
        if progress.state != "running" and time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            save_sweep(self.record(ended=False), self._store.results_dir)
            self._saved_at = time.monotonic()

    def close(self, *, ended: bool) -> None:
        """Write the document for the last time; the first call counts."""
        if not self._closed:
            self._closed = True
            save_sweep(self.record(ended=ended), self._store.results_dir)

    def record(self, *, ended: bool) -> SweepRecord:
        assert self._ledger is not None
        ledger = self._ledger
        methods = dict.fromkeys(progress.tried.method for progress in ledger.progress)
        best = {method: ledger.best(method) for method in methods}
        return SweepRecord(
            name=self._name,
            options=self._told(),
            criterion=ledger.objective.sentence(),
            held_out=self._plan.request.held_out,
            runtime=ledger.objective.runtime,
            corner=ledger.objective.corner,
            created=self._created,
            ended=ended,
            trials=tuple(_row(progress) for progress in ledger.progress),
            chosen={m: tuple(p.run for p in group) for m, group in best.items() if group},
        )

    def _told(self) -> dict[str, Any]:
        """Return the options, without the places of this machine."""
        told = self._options.model_dump(mode="json", exclude={"address"})
        told["dataset"] = self._plan.dataset.info.name
        if self._options.pretrained is not None:
            told["pretrained"] = self._options.pretrained.name
        return told


def _row(progress: Progress) -> TrialRow:
    return TrialRow(
        method=progress.tried.method,
        settings=dict(progress.tried.settings),
        seed=progress.seed,
        run=progress.run,
        status=progress.state,
        reason=progress.reason,
        points=tuple(progress.points),
        score=progress.score,
        wall_s=progress.wall_s,
    )
