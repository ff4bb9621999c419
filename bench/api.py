"""What the command line and notebooks call: run, sweep, results, report, latency, evaluate, export.

Owns the order of the steps of a comparison; every step lives in its own room.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.drawing import (
    can_draw,
    draw_latency,
    draw_run,
    figures,
    pareto,
    report,
    results,
    why_none,
)
from bench.errors import BenchError
from bench.finished import (
    LATENCY_BATCH_SIZES,
    Failure,
    Outcome,
    Profile,
    evaluate,
    export,
    latency,
    track,
)
from bench.folders import Folders, default_data_dir, default_results_dir

if TYPE_CHECKING:
    from bench.engine.building import Workplace
    from bench.engine.plan import Planned
    from bench.networks.weights import Weights
    from bench.options import RunOptions
    from bench.records.record import RunRecord
    from bench.records.store import RunStore
    from bench.report.rows import Row
    from bench.sweep.ledger import Listener
    from bench.sweep.options import SweepOptions
    from bench.sweep.sweeping import Swept
    from bench.training.reporter import Reporter

__all__ = [
    "CampaignOutcome",
    "Failure",
    "Folders",
    "Outcome",
    "campaign",
    "default_data_dir",
    "default_results_dir",
    "draw_latency",
    "draw_run",
    "evaluate",
    "export",
    "figures",
    "latency",
    "pareto",
    "report",
    "results",
    "rows_of",
    "run",
    "sweep",
    "why_none",
]

Notify = Callable[[str], None]


def run(
    options: RunOptions,
    folders: Folders,
    *,
    reporter: Reporter | None = None,
    forget: bool = False,
) -> Outcome:
    """Train, evaluate, count and time; finished runs are found again and not repeated.

    A method that fails does not stop the others. Latency is measured last, for all networks
    together, because a speed-up is a ratio within the same rounds.

    Raises:
        UserError: the request cannot be served as given; nothing has been started.
    """
    from bench.data.load import load_dataset
    from bench.engine.building import Workplace, check_same_data
    from bench.engine.decisions import rebuilt_as_recorded
    from bench.engine.devices import pick_device
    from bench.engine.fitting import fitted
    from bench.engine.judging import judge
    from bench.engine.plan import make_plan, request_of
    from bench.networks.weights import read_weights
    from bench.records.choosing import finished_run
    from bench.records.store import RunStore
    from bench.records.upkeep import forget as forget_run
    from bench.storage import make_folder
    from bench.training.reporter import Silent

    store = RunStore(folders.results)
    device = pick_device(options.device)
    weights = read_weights(options.pretrained) if options.pretrained is not None else None
    sources = [finished_run(store, name) for name in options.sources]
    request = request_of(options, sources=[source.spec for source in sources])
    data = load_dataset(options.dataset, data_dir=folders.data)
    for source in sources:
        check_same_data(source.spec, data)
    plan = make_plan(request, data.info, train_size=len(data.train), weights=weights)
    make_folder(folders.results)
    place = Workplace(data, store, device, reporter or Silent(), weights)
    if weights is not None:
        read = fitted(weights, request, data, device=device, note=place.reporter.note)
        plan = make_plan(request, data.info, train_size=len(data.train), weights=read)
    for source in sources:
        rebuilt_as_recorded(source, place)
    _announce(plan, request.methods, weights=weights, notify=place.reporter.note)
    if forget:
        for item in plan:
            forget_run(place.store, item.spec, note=place.reporter.note)
    outcome = _perform_all(plan, place)
    outcome = Outcome(judge(outcome.records, place.store), outcome.failures)
    if options.latency != "off":
        timed = time_runs(outcome.records, place, profile=options.latency)
        outcome = Outcome(timed, outcome.failures)
    if can_draw():
        for record in outcome.records:
            if record.points:
                _draw_masks(record, place.store)
    track(outcome.records, place.store, notify=place.reporter.note)
    return outcome


@dataclass(frozen=True, slots=True)
class CampaignOutcome:
    """What a campaign has done so far; `left` counts the steps that were not begun."""

    records: list[RunRecord]
    failures: list[Failure]
    left: int


def campaign(
    steps: Sequence[RunOptions],
    folders: Folders,
    *,
    hours: float | None = None,
    reporter: Reporter | None = None,
) -> CampaignOutcome:
    """Do one run command after the other; finished runs are found again, so it continues itself.

    No step is begun after `hours`. A step that cannot be served as given is a failure like any
    other: a night's work does not end at its first step.
    """
    from bench.training.reporter import Silent

    told = reporter or Silent()
    begun = time.monotonic()
    outcome = CampaignOutcome([], [], 0)
    for number, options in enumerate(steps, start=1):
        if hours is not None and time.monotonic() - begun > hours * 3600:
            return replace(outcome, left=len(steps) - number + 1)
        name = f"step {number} of {len(steps)}"
        told.note(
            f"{name}: {', '.join(options.methods)}, seeds {', '.join(map(str, options.seeds))}"
        )
        try:
            done = run(options, folders, reporter=told)
        except BenchError as error:
            outcome.failures.append(Failure(name, error.message))
            continue
        outcome.records.extend(done.records)
        outcome.failures.extend(done.failures)
    return outcome


def _announce(
    plan: Sequence[Planned], methods: Sequence[str], *, weights: Weights | None, notify: Notify
) -> None:
    """Say which runs stand beside what was asked for, and what is missing there."""
    beside = dict.fromkeys(item.spec.method for item in plan if item.spec.method not in methods)
    if beside:
        notify(f"Controls in this comparison: {', '.join(beside)} (--controls none: without)")
    if beside and weights is not None:
        notify(
            f"No smaller static network: {weights.name} does not fit one. "
            "Run one with its own weights: --methods resnet --backbone ... --pretrained ..."
        )


def _draw_masks(record: RunRecord, store: RunStore) -> None:
    from bench.records.arrays import read_arrays
    from bench.records.store import MASKS_FIGURE
    from bench.report.figures import masks_figure, save_figure

    folder = store.folder_of(record)
    target = folder / MASKS_FIGURE
    if not target.exists():
        arrays = {point.name: read_arrays(folder, point.arrays_file) for point in record.points}
        save_figure(masks_figure(record, arrays), target)


def _perform_all(plan: Sequence[Planned], place: Workplace) -> Outcome:
    from bench.engine.single import perform

    outcome = Outcome([])
    failed: set[str] = set()
    for item in plan:
        try:
            if item.needs is not None:
                _check_start(item, failed)
                place.reporter.note(f"{item.spec.method} starts from {item.needs.run}")
                perform(item.needs, place)
            outcome.records.append(perform(item.spec, place))
        except Exception as error:
            failed.add(item.spec.key)
            failure = _failure(item, error)
            outcome.failures.append(failure)
            place.reporter.note(f"{failure.run} failed: {failure.reason}")
    return outcome


def _failure(item: Planned, error: Exception) -> Failure:
    import traceback

    from bench.engine.blame import reason_for

    foreseen = isinstance(error, BenchError)
    return Failure(
        item.spec.run,
        reason_for(error),
        hint="" if foreseen else f"Look closer with: bench method check {item.spec.method}",
        trace="".join(traceback.format_exception(error)),
    )


def _check_start(item: Planned, failed: set[str]) -> None:
    from bench.errors import RunFailed

    if item.needs is not None and item.needs.key in failed:
        raise RunFailed(f"the run it starts from failed: {item.needs.run}")


def time_runs(
    records: Sequence[RunRecord], place: Workplace, *, profile: Profile
) -> list[RunRecord]:
    """Return the records with latency: those that have it at this profile stay as they are."""
    from bench.engine.timing import time_records, without_broken

    waiting = [
        record
        for record in records
        if not all(any(c.profile == profile for c in p.latency) for p in record.points)
    ]
    sound, broken = without_broken(waiting, place)
    for run, error in broken.items():
        place.reporter.note(f"{run} is not timed: {error.message}")
    timed = time_records(sound, place, profile=profile, batch_sizes=LATENCY_BATCH_SIZES)
    return [timed.get(record.run, record) for record in records]


def sweep(options: SweepOptions, folders: Folders, *, listener: Listener) -> Swept:
    """Try settings and seeds with Ray Tune; trials that are recorded are not run again.

    Raises:
        UserError: the request cannot be served as given; nothing has been started.
    """
    from bench.engine.judging import judge
    from bench.records.store import RunStore
    from bench.storage import make_folder
    from bench.sweep.sweeping import sweep as perform_sweep

    results_dir = make_folder(folders.results)
    swept = perform_sweep(
        options, results_dir=results_dir, data_dir=folders.data, listener=listener
    )
    store = RunStore(results_dir)
    records = judge(swept.records, store)
    track(records, store, notify=listener.note, sweeps=[swept.sweep])
    return replace(swept, records=records)


def rows_of(outcome: Outcome) -> list[Row]:
    """Return the rows of what a command did."""
    from bench.report.rows import rows

    return rows(outcome.records)
