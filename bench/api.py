"""What the command line and notebooks call: run, sweep, results, report, latency, evaluate, export.

Owns the order of the steps of a comparison; every step lives in its own room.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.drawing import (
    can_draw,
    draw_latency,
    draw_run,
    draw_sweep,
    figures,
    pareto,
    report,
    results,
    why_none,
)
from bench.engine.failures import Failure
from bench.errors import BenchError
from bench.finished import (
    Outcome,
    Profile,
    evaluate,
    export,
    latency,
    register,
    track,
)
from bench.folders import Folders, default_data_dir, default_results_dir
from bench.records.machine_load import Sample, machine_load

if TYPE_CHECKING:
    from bench.data.images import Dataset
    from bench.engine.building import Workplace
    from bench.engine.plan import Planned
    from bench.engine.side_by_side import Performed, Step
    from bench.networks.weights import Weights
    from bench.options import RunOptions
    from bench.recipes import Precision
    from bench.records.record import PointRecord, RunRecord
    from bench.records.store import RunStore
    from bench.report.data.row import Row
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
    "draw_sweep",
    "evaluate",
    "export",
    "figures",
    "latency",
    "pareto",
    "register",
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
    data: Dataset | None = None,
) -> Outcome:
    """Train, evaluate, count and time; finished runs are found again and not repeated.

    A method that fails does not stop the others. Latency is measured last, for all networks
    together, because a speed-up is a ratio within the same rounds. `data` are the images called
    `options.dataset`, where they are at hand.

    Raises:
        UserError: the request cannot be served as given; nothing has been started.
    """
    from bench.engine.side_by_side import perform_all
    from bench.training.reporter import Silent

    listener = reporter or Silent()
    loaded = {} if data is None else {options.dataset: data}
    step = _step(options, folders, listener, loaded=loaded)
    step = replace(step, here=data is not None)
    if forget:
        _forget(step)
    with machine_load(listener.note) as load:
        performed = perform_all([step], listener)
    return _finish(step, performed, load)


@dataclass(frozen=True, slots=True)
class CampaignOutcome:
    """What a campaign has done so far; `left` counts the runs that were not begun."""

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
    """Do the runs of many commands side by side, first come, first served.

    Finished runs are found again, so it continues itself. No run is begun after `hours`. Latency is
    measured when all have ended. A step that cannot be served as given is a failure like any other:
    a night's work does not end at its first step.
    """
    from bench.engine.side_by_side import perform_all
    from bench.training.reporter import Silent

    listener = reporter or Silent()
    until = math.inf if hours is None else time.monotonic() + hours * 3600
    outcome = CampaignOutcome([], [], 0)
    numbered = list(enumerate(steps, start=1))
    loaded: dict[str, Dataset] = {}
    # The sources that a step names may be runs of the others.
    for sourced in (False, True):
        planned: list[Step] = []
        for number, options in numbered:
            if bool(options.sources) != sourced:
                continue
            try:
                planned.append(_step(options, folders, listener, loaded=loaded))
            except BenchError as error:
                name = f"step {number} of {len(steps)}"
                outcome.failures.append(Failure(name, error.message))
        with machine_load(listener.note) as load:
            performed = perform_all(planned, listener, until=until)
        for step in planned:
            done = _finish(step, performed, load)
            outcome.records.extend(done.records)
            outcome.failures.extend(done.failures)
        outcome = replace(outcome, left=outcome.left + performed.left)
    return outcome


def _step(
    options: RunOptions, folders: Folders, reporter: Reporter, *, loaded: dict[str, Dataset]
) -> Step:
    """Return the runs of a command; its images are taken from `loaded` or put there."""
    from bench.data.load import load_dataset
    from bench.engine.building import Workplace, check_same_data
    from bench.engine.decisions import rebuilt_as_recorded
    from bench.engine.devices import pick_device
    from bench.engine.fitting import fitted
    from bench.engine.plan import make_plan, request_backbone, request_of
    from bench.engine.precision import faster_precision, with_finished
    from bench.engine.side_by_side import Step
    from bench.engine.single import recorded
    from bench.networks.weights import read_weights
    from bench.records.choosing import finished_run
    from bench.records.store import RunStore
    from bench.storage import make_folder

    store = RunStore(folders.results)
    device = pick_device(options.device)
    weights = (
        None
        if options.pretrained is None
        else read_weights(options.pretrained, backbone=options.backbone_name)
    )
    sources = [finished_run(store, name) for name in options.sources]
    if options.dataset not in loaded:
        data = load_dataset(options.dataset, data_dir=folders.data, workers=options.workers)
        loaded[options.dataset] = data
        if data.remark:
            reporter.note(data.remark)
    data = loaded[options.dataset]
    for source in sources:
        check_same_data(source.spec, data)
    request = request_of(options, sources=[source.spec for source in sources])

    def planned(weights: Weights | None, precision: Precision) -> list[Planned]:
        asked = replace(request, precision=precision)
        return make_plan(asked, data.info, train_size=len(data.train), weights=weights)

    planned(weights, "fp32")  # what cannot be served is said before anything is made or tried
    make_folder(folders.results)
    place = Workplace(data, store, device, reporter, weights)
    read = weights and fitted(weights, request, data, device=device, note=reporter.note)
    if options.precision == "auto":
        chosen = faster_precision(request_backbone(request, data.info), device, note=reporter.note)
        both = (planned(read, chosen), planned(read, "fp32" if chosen == "bf16" else "bf16"))
        plan = with_finished(*both, finished=lambda spec: recorded(spec, place) is not None)
    else:
        plan = planned(read, options.precision)
    for source in sources:
        rebuilt_as_recorded(source, place)
    _announce(plan, request.methods, weights=weights, notify=reporter.note)
    return Step(options, folders, place, plan)


def _forget(step: Step) -> None:
    from bench.records.upkeep import forget

    for item in step.plan:
        forget(step.place.store, item.spec, note=step.place.reporter.note)


def _finish(step: Step, performed: Performed, load: Sequence[Sample]) -> Outcome:
    """Return what became of a step: judged, timed, drawn and logged."""
    from bench.engine.judging import judge

    place = step.place
    runs = [item.spec.run for item in step.plan]
    records = [performed.records[run] for run in runs if run in performed.records]
    begun = dict.fromkeys(spec.run for i in step.plan for spec in (i.needs, i.spec) if spec)
    failures = [performed.failures[run] for run in begun if run in performed.failures]
    records = judge(records, place.store)
    options = step.options
    if options.latency != "off":
        records = time_runs(records, place, profile=options.latency, runtimes=options.runtimes)
    if can_draw():
        for record in records:
            if record.points:
                _draw_masks(record, place.store)
    track(records, place.store, notify=place.reporter.note, load=load)
    return Outcome(records, failures)


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
    from bench.report.behaviour.charts import masks_chart
    from bench.report.figures.draw import draw, save_figure

    folder = store.folder_of(record)
    target = folder / MASKS_FIGURE
    if not target.exists():
        arrays = {point.name: read_arrays(folder, point.arrays_file) for point in record.points}
        save_figure(draw(masks_chart(record, arrays)), target)


def time_runs(
    records: Sequence[RunRecord],
    place: Workplace,
    *,
    profile: Profile,
    runtimes: Sequence[str] = (),
) -> list[RunRecord]:
    """Return the records with latency: those that have it at this profile, in all runtimes named,
    stay as they are."""
    from bench.engine.latency.timing import time_records, without_broken

    waiting = [
        record
        for record in records
        if not all(_is_timed(point, profile, runtimes) for point in record.points)
    ]
    sound, broken = without_broken(waiting, place)
    for run, error in broken.items():
        place.reporter.note(f"{run} is not timed: {error.message}")
    timed = time_records(sound, place, profile=profile, runtimes=runtimes)
    return [timed.get(record.run, record) for record in records]


def _is_timed(point: PointRecord, profile: Profile, runtimes: Sequence[str]) -> bool:
    known = {cell.runtime for cell in point.latency if cell.profile == profile}
    return known >= set(runtimes) if runtimes else bool(known - {"unknown"})


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
    with machine_load(listener.note) as load:
        swept = perform_sweep(
            options, results_dir=results_dir, data_dir=folders.data, listener=listener
        )
    store = RunStore(results_dir)
    records = judge(swept.records, store)
    track(records, store, notify=listener.note, sweeps=[swept.sweep], load=load)
    return replace(swept, records=records)


def rows_of(outcome: Outcome) -> list[Row]:
    """Return the rows of what a command did."""
    from bench.report.data.rows import rows

    return rows(outcome.records)
