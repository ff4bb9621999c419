"""One sweep from options to the choice: plan, schedule, choose.

Owns the order of the steps and the name of a sweep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from bench.config import canonical_json
from bench.data.load import load_dataset
from bench.engine.building import given_weights, pick_device
from bench.engine.fitting import fitted
from bench.engine.side_by_side import job_of
from bench.errors import RecordError
from bench.folders import Folders
from bench.plain_text import slug
from bench.records.record import RunRecord
from bench.records.store import RunStore
from bench.records.sweep import SweepRecord, TrialRow, load_sweep
from bench.sweep.ledger import Ledger, Listener, Progress
from bench.sweep.options import SweepOptions, objective_of
from bench.sweep.ray_connection import connected
from bench.sweep.trials import Planner, Search, planner, proposals, spaces_of
from bench.sweep.worker import TrialJob

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
        pick_device(options.device)  # a cluster may have other devices
    store = RunStore(folders.results)
    dataset = load_dataset(options.dataset, data_dir=folders.data)
    weights = given_weights(options.pretrained)
    plan = planner(options, dataset, weights)
    if weights is not None:
        device = pick_device("auto")
        read = fitted(weights, plan.options, dataset, device=device, note=listener.note)
        plan = replace(plan, weights=read)
    name = name_of(options, plan)
    ledger = Ledger(
        _searches(options, plan, known=_known(store.results_dir, name)),
        plan,
        store,
        name=name,
        options=options,
        objective=objective_of(options, dataset.info.num_classes),
        listener=listener,
    )
    listener.began(ledger)
    try:
        _run(ledger, options, folders)
    except BaseException:
        ledger.save(ended=False)
        raise
    ledger.save(ended=True)
    return Swept(ledger.document(ended=True), list(ledger.records()))


def _run(ledger: Ledger, options: SweepOptions, folders: Folders) -> None:
    """Run what is not recorded; Ray is started only where there is something to run."""
    trials = ledger.trials()
    first = next(trials, None)
    if first is None:
        return
    document = str(ledger.save(ended=False))
    with connected(options.address) as scratch:
        from bench.sweep.scheduling import schedule

        def job(progress: Progress, device: str) -> TrialJob:
            assert progress.trial is not None
            made = job_of(progress.trial, options, folders, device=device, threads=options.threads)
            made = replace(made, time_limit_s=options.time_limit_s)
            return TrialJob(made, ledger.objective, document)

        schedule(ledger, chain([first], trials), options, job, scratch=scratch)


def name_of(options: SweepOptions, plan: Planner) -> str:
    """Return the name of a sweep: what it is about, and a hash of all that matters to it."""
    told = options.model_dump(mode="json", exclude=set(_NOT_IN_NAME))
    told |= {"data": plan.dataset.info.fingerprint, "held_out": plan.options.held_out}
    told["pretrained"] = None if plan.weights is None else plan.weights.sha256
    digest = hashlib.sha256(canonical_json(told).encode()).hexdigest()[:8]
    methods = "_".join(plan.options.methods)[:40]
    about = (slug(part) for part in (plan.dataset.info.name, options.backbone_name))
    return "-".join((methods, *about, digest))


def _searches(options: SweepOptions, plan: Planner, *, known: Sequence[TrialRow]) -> list[Search]:
    """Return one search for each method; what cannot run is refused here.

    Raises:
        ConfigError: ranges do not fit the search, or the first settings of a method are refused.
    """
    found: list[Search] = []
    for method in plan.options.methods:
        spaces = spaces_of(method, options)
        before = [row.settings for row in known if row.method == method]
        search = partial(proposals, options.search, method, spaces, samples=options.samples)
        again, probe = search(known=before), search().ask()
        if probe is not None:
            plan.trials(probe, options.seeds)
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
