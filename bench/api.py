"""What the command line and notebooks call: run, results, pareto, report, latency, figures, export.

Owns the order of the steps of a comparison; every step lives in its own room.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.drawing import can_draw, draw_latency, draw_run, figures, pareto, report, results
from bench.errors import BenchError
from bench.folders import Folders, default_data_dir, default_results_dir

if TYPE_CHECKING:
    from bench.engine.building import Workplace
    from bench.engine.plan import Planned
    from bench.export.exporting import Exported
    from bench.networks.weights import Weights
    from bench.options import RunOptions
    from bench.records.record import RunRecord
    from bench.records.store import RunStore
    from bench.records.sweep import SweepRecord
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
    "export",
    "figures",
    "latency",
    "pareto",
    "report",
    "results",
    "rows_of",
    "run",
    "sweep",
]

Notify = Callable[[str], None]
Profile = Literal["smoke", "default", "publish"]
FileFormat = Literal["torchscript", "onnx", "safetensors"]
LATENCY_BATCH_SIZES = (1, 256)


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that did not finish, and why."""

    run: str
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did: the records of its runs, and the runs that failed."""

    records: list[RunRecord]
    failures: list[Failure] = field(default_factory=list)


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
    from bench.engine.devices import pick_device
    from bench.engine.judging import judge
    from bench.engine.plan import make_plan, request_of
    from bench.networks.weights import read_weights
    from bench.records.store import RunStore
    from bench.records.upkeep import forget as forget_run
    from bench.storage import make_folder
    from bench.training.reporter import Silent

    store = RunStore(folders.results)
    device = pick_device(options.device)
    weights = read_weights(options.pretrained) if options.pretrained is not None else None
    sources = [store.get(name) for name in options.sources]
    request = request_of(options, sources=[source.spec for source in sources])
    data = load_dataset(options.dataset, data_dir=folders.data)
    for source in sources:
        check_same_data(source.spec, data)
    plan = make_plan(request, data.info, train_size=len(data.train), weights=weights)
    make_folder(folders.results)
    place = Workplace(data, store, device, reporter or Silent(), weights)
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


def track(
    records: Sequence[RunRecord],
    store: RunStore,
    *,
    notify: Notify,
    sweeps: Sequence[SweepRecord] = (),
) -> None:
    """Log records to MLflow; what goes wrong there is said, and loses nothing."""
    from bench.records.tracking import log_records

    for result in log_records(records, store, sweeps=sweeps).values():
        if not result.logged:
            notify(f"MLflow: {result.detail}. Later: bench mlflow sync.")
            return


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
            reason = error.message if isinstance(error, BenchError) else repr(error)
            outcome.failures.append(Failure(item.spec.run, reason))
            place.reporter.note(f"{item.spec.run} failed: {reason}")
    return outcome


def _check_start(item: Planned, failed: set[str]) -> None:
    from bench.errors import RunFailed

    if item.needs is not None and item.needs.key in failed:
        raise RunFailed(f"the run it starts from failed: {item.needs.run}")


def time_runs(
    records: Sequence[RunRecord], place: Workplace, *, profile: Profile
) -> list[RunRecord]:
    """Return the records with latency: those that have it at this profile stay as they are."""
    from bench.engine.timing import time_records

    waiting = [
        record
        for record in records
        if not all(any(c.profile == profile for c in p.latency) for p in record.points)
    ]
    timed = time_records(waiting, place, profile=profile, batch_sizes=LATENCY_BATCH_SIZES)
    return [timed.get(record.run, record) for record in records]


def latency(
    runs: Sequence[str],
    folders: Folders,
    *,
    batch_sizes: Sequence[int] = LATENCY_BATCH_SIZES,
    profile: Profile = "default",
    device: str = "auto",
    threads: int = 1,
    dataset: str | None = None,
    reporter: Reporter | None = None,
) -> Outcome:
    """Time finished runs on this machine, together, and add the cells to their records.

    `dataset` is needed for runs on a folder of images, whose place no record keeps.

    Raises:
        RecordError: a name is no finished run.
        DataError: the data set at hand is not the one a run was trained on.
    """
    from bench.data.load import load_dataset
    from bench.engine.building import Workplace, check_same_data
    from bench.engine.devices import pick_device
    from bench.engine.timing import time_records
    from bench.records.store import RunStore
    from bench.training.reporter import Silent

    store = RunStore(folders.results)
    records = [store.get(name) for name in runs]
    timed: list[RunRecord] = []
    for name in dict.fromkeys(record.spec.dataset.name for record in records):
        members = [record for record in records if record.spec.dataset.name == name]
        data = load_dataset(dataset or _recorded(name), data_dir=folders.data)
        for member in members:
            check_same_data(member.spec, data)
        place = Workplace(data, store, pick_device(device), reporter or Silent())
        done = time_records(
            members, place, profile=profile, batch_sizes=batch_sizes, threads=threads
        )
        timed.extend(done.values())
    track(timed, store, notify=(reporter or Silent()).note)
    return Outcome(timed)


def export(
    run: str,
    folders: Folders,
    *,
    file_format: FileFormat,
    point: str | None = None,
    out: Path | None = None,
    dataset: str | None = None,
    reporter: Reporter | None = None,
) -> Exported:
    """Write the inference network of a finished run, checked against the run first.

    Raises:
        RecordError: there is no such run.
        DataError: the data set at hand is not the one it was trained on.
        Unsupported: the network cannot be written in this format.
    """
    from bench.data.load import load_dataset
    from bench.engine.building import Workplace, check_same_data
    from bench.engine.devices import pick_device
    from bench.export.exporting import export_record
    from bench.records.store import RunStore
    from bench.training.reporter import Silent

    store = RunStore(folders.results)
    record = store.get(run)
    name = dataset or _recorded(record.spec.dataset.name)
    data = load_dataset(name, data_dir=folders.data)
    check_same_data(record.spec, data)
    place = Workplace(data, store, pick_device("cpu"), reporter or Silent())
    return export_record(record, place, file_format=file_format, point=point, out=out)


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


def _recorded(name: str) -> str:
    """Return the data set that a record names; a path in it is not followed."""
    from bench.data.catalogue import DATASETS
    from bench.errors import DataError

    if name not in DATASETS:
        raise DataError(
            f"The run was trained on '{name}', a folder whose place no record keeps.",
            hint="Give the folder with --dataset.",
        )
    return name
