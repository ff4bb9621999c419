"""What the command line and notebooks call of the engine: run, campaign, sweep, latency, evaluate,
export, register.

Owns the order of the steps of a comparison, and where a finished run's images come from; every step
lives in its own room. What only reads records is bench.drawing.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.data.images import Dataset
from bench.data.load import is_named, load_dataset
from bench.drawing import pareto, report, results  # noqa: F401  public here
from bench.engine.building import Workplace, check_same_data, given_weights, pick_device
from bench.engine.decisions import evaluate_again, rebuilt_as_recorded
from bench.engine.fitting import faster_precision, fitted, with_finished
from bench.engine.judging import judge
from bench.engine.latency.timing import time_records, without_broken
from bench.engine.plan import Planned, backbone_in, make_plan, resolved
from bench.engine.side_by_side import Command, RunQueue, perform_all
from bench.engine.single import recorded
from bench.engine.supervising import Failure
from bench.errors import BenchError, DataError
from bench.folders import Folders
from bench.networks.weights import Weights
from bench.options import RunOptions
from bench.recipes import Precision
from bench.records.record import PointRecord, RunRecord
from bench.records.store import RunStore, finished_run, finished_runs
from bench.records.tracking import log_records, register_point
from bench.records.upkeep import adopt_reference
from bench.records.upkeep import forget as forget_run
from bench.storage import make_folder
from bench.training.reporter import Reporter

if TYPE_CHECKING:
    from bench.export.exporting import Exported, FileFormat
    from bench.records.mlflow_content import Registered
    from bench.report.data.row import Row
    from bench.sweep.ledger import Listener
    from bench.sweep.options import SweepOptions
    from bench.sweep.sweeping import Swept

Profile = Literal["smoke", "default", "publish"]


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command did: the records of its runs, the runs that failed, and of a campaign how many
    were not begun."""

    records: list[RunRecord] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    left: int = 0


def run(
    options: RunOptions,
    folders: Folders,
    *,
    reporter: Reporter | None = None,
    forget: bool = False,
    data: Dataset | None = None,
) -> CommandResult:
    """Train, evaluate, count and time; finished runs are found again and not repeated.

    A method that fails does not stop the others. Latency is measured last, for all networks
    together, because a speed-up is a ratio within the same rounds. `data` are the images called
    `options.dataset`, where they are at hand.

    Raises:
        UserError: the request cannot be served as given; nothing has been started.
    """
    listener = reporter or Reporter()
    loaded = {} if data is None else {options.dataset: data}
    command = replace(_command(options, folders, listener, loaded=loaded), here=data is not None)
    for item in command.plan if forget else ():
        forget_run(command.place.store, item.spec, note=listener.note)
    return _finish(command, perform_all([command], listener))


def campaign(
    steps: Sequence[RunOptions],
    folders: Folders,
    *,
    hours: float | None = None,
    reporter: Reporter | None = None,
) -> CommandResult:
    """Do the runs of many commands side by side, first come, first served.

    Finished runs are found again, so it continues itself. No run is begun after `hours`. Latency is
    measured when all have ended. A step that cannot be served as given is a failure like any other:
    a campaign does not end at its first step.
    """
    listener = reporter or Reporter()
    until = math.inf if hours is None else time.monotonic() + hours * 3600
    outcome, loaded = CommandResult(), dict[str, Dataset]()
    # The sources that a step names may be runs of the others.
    for sourced in (False, True):
        planned: list[Command] = []
        for number, options in enumerate(steps, start=1):
            if bool(options.sources) == sourced:
                try:
                    planned.append(_command(options, folders, listener, loaded=loaded))
                except BenchError as error:
                    name = f"step {number} of {len(steps)}"
                    outcome.failures.append(_failure(name, error))
        performed = perform_all(planned, listener, until=until)
        for command in planned:
            done = _finish(command, performed)
            outcome.records.extend(done.records)
            outcome.failures.extend(done.failures)
        outcome = replace(outcome, left=outcome.left + len(performed.waiting))
    return outcome


def _command(
    options: RunOptions, folders: Folders, reporter: Reporter, *, loaded: dict[str, Dataset]
) -> Command:
    """Return the runs of a command; its images are taken from `loaded` or put there."""
    store, device = RunStore(folders.results), pick_device(options.device)
    weights = given_weights(options.pretrained)
    sources = [finished_run(store, name) for name in options.sources]
    if options.dataset not in loaded:
        data = load_dataset(options.dataset, data_dir=folders.data, workers=options.workers)
        loaded[options.dataset] = data
        if data.remark:
            reporter.note(data.remark)
    data = loaded[options.dataset]
    for source in sources:
        check_same_data(source.spec, data)
    specs = [source.spec for source in sources]

    def planned(weights: Weights | None, precision: Precision) -> list[Planned]:
        asked, size = options.model_copy(update={"precision": precision}), len(data.train)
        return make_plan(asked, data.info, train_size=size, weights=weights, sources=specs)

    planned(weights, "fp32")  # what cannot be served is said before anything is made or tried
    make_folder(folders.results)
    place = Workplace(data, store, device, reporter, weights)
    read = weights and fitted(weights, options, data, device=device, note=reporter.note)
    if options.precision == "auto":
        chosen = faster_precision(backbone_in(options, data.info), device, note=reporter.note)
        both = (planned(read, chosen), planned(read, "fp32" if chosen == "bf16" else "bf16"))
        plan = with_finished(*both, finished=lambda spec: recorded(spec, place) is not None)
    else:
        plan = planned(read, options.precision)
    for source in sources:
        rebuilt_as_recorded(source, place)
    methods = dict.fromkeys(item.spec.method for item in plan)
    controls = ", ".join(name for name in methods if name not in resolved(options).methods)
    if controls:
        reporter.note(f"Controls in this comparison: {controls} (--controls none: without)")
    if controls and weights is not None:
        reporter.note(
            f"No smaller static network: {weights.name} does not fit one. "
            "Run one with its own weights: --methods resnet --backbone ... --pretrained ..."
        )
    return Command(options, folders, place, plan)


def _finish(command: Command, performed: RunQueue) -> CommandResult:
    """Return what became of a command: judged, timed, drawn and logged."""
    place, options = command.place, command.options
    runs = [item.spec.run for item in command.plan]
    records = [performed.records[run] for run in runs if run in performed.records]
    begun = dict.fromkeys(spec.run for i in command.plan for spec in (i.needs, i.spec) if spec)
    failures = [performed.failures[run] for run in begun if run in performed.failures]
    records = judge(records, place.store)
    if options.latency != "off":
        records = _timed(records, place, profile=options.latency, runtimes=options.runtimes)
    track(records, place.store, note=place.reporter.note)
    return CommandResult(records, failures)


def _timed(
    records: Sequence[RunRecord], place: Workplace, *, profile: Profile, runtimes: Sequence[str]
) -> list[RunRecord]:
    """Return the records with latency: those that have it at this profile, in all runtimes named,
    stay as they are."""

    def is_timed(point: PointRecord) -> bool:
        known = {cell.runtime for cell in point.latency if cell.profile == profile}
        return known >= set(runtimes) if runtimes else bool(known)

    waiting = [record for record in records if not all(map(is_timed, record.points))]
    sound, broken = without_broken(waiting, place)
    for run, error in broken.items():
        place.reporter.note(f"{run} is not timed: {error.message}")
    timed = time_records(sound, place, profile=profile, runtimes=runtimes)
    return [timed.get(record.run, record) for record in records]


def sweep(options: SweepOptions, folders: Folders, *, listener: Listener) -> Swept:
    """Try settings and seeds with Ray Tune; trials that are recorded are not run again.

    Raises:
        UserError: the request cannot be served as given; nothing has been started.
    """
    from bench.sweep.sweeping import sweep as perform

    store = RunStore(make_folder(folders.results))
    swept = perform(options, folders, listener=listener)
    records = judge(swept.records, store)
    track(records, store, note=listener.note)
    return replace(swept, records=records)


def track(records: Sequence[RunRecord], store: RunStore, *, note: Callable[[str], None]) -> None:
    """Log records to MLflow; what goes wrong there is said, and loses nothing."""
    for result in log_records(records, store).values():
        if not result.logged:
            note(f"MLflow: {result.detail}. Later: bench mlflow sync.")
            return


def latency(
    runs: Sequence[str],
    folders: Folders,
    *,
    batch_sizes: Sequence[int] = (),
    profile: Profile = "default",
    runtimes: Sequence[str] = (),
    device: str = "auto",
    threads: int = 1,
    dataset: str | None = None,
    reporter: Reporter | None = None,
) -> CommandResult:
    """Time finished runs on this machine, together, and add the cells to their records.

    Each of `runs` may name several: all of them are meant; "reference" means the runs that the
    project keeps, which are copied first. Without `runtimes`, all that take the dense network here
    are measured, and without `batch_sizes` those of the profile. A run that cannot be timed is a
    failure; the others are timed. `dataset` is needed for runs on a folder of images, whose place
    no record keeps.

    Raises:
        RecordError: a name is no finished run.
        DataError: the data set at hand is not the one a run was trained on.
    """
    listener, outcome = reporter or Reporter(), CommandResult()
    store = RunStore(folders.results)
    runs = list(runs)
    if "reference" in runs:
        runs.remove("reference")
        runs += adopt_reference(store, note=listener.note)
    for members, place in _at_their_data(runs, folders, device, dataset, listener):
        sound, broken = without_broken(members, place)
        outcome.failures.extend(_failure(run, error) for run, error in broken.items())
        done = time_records(
            sound,
            place,
            profile=profile,
            batch_sizes=batch_sizes,
            threads=threads,
            runtimes=runtimes,
        )
        outcome.records.extend(done.values())
    track(outcome.records, store, note=listener.note)
    return outcome


def evaluate(
    runs: Sequence[str],
    folders: Folders,
    *,
    device: str = "auto",
    dataset: str | None = None,
    reporter: Reporter | None = None,
) -> CommandResult:
    """Evaluate finished runs again from their weights, and add what their records do not hold yet.

    What is on record stays. A run that does not come out as recorded is a failure and is left as it
    is; the others are done. `dataset` is needed for runs on a folder of images.

    Raises:
        RecordError: a name is no finished run.
        DataError: the data set at hand is not the one a run was trained on.
    """
    listener, outcome = reporter or Reporter(), CommandResult()
    store = RunStore(folders.results)
    for members, place in _at_their_data(runs, folders, device, dataset, listener):
        for record in members:
            try:
                outcome.records.append(evaluate_again(record, place))
            except BenchError as error:
                outcome.failures.append(_failure(record.run, error))
    judged = judge(outcome.records, store)
    track(judged, store, note=listener.note)
    return replace(outcome, records=judged)


def export(
    run: str,
    folders: Folders,
    *,
    file_format: FileFormat,
    point: str | None = None,
    out: Path | str | None = None,
    dataset: str | None = None,
    reporter: Reporter | None = None,
) -> Exported:
    """Write the inference network of a finished run, checked against the run first.

    Raises:
        RecordError: there is no such finished run, or there are several.
        DataError: the data set at hand is not the one it was trained on.
        Unsupported: the network cannot be written in this format.
    """
    from bench.export.exporting import export_record

    name = finished_run(RunStore(folders.results), run).run
    found = _at_their_data([name], folders, "cpu", dataset, reporter or Reporter())
    (((record,), place),) = found
    return export_record(record, place, file_format=file_format, point=point, out=out)


def register(
    run: str, folders: Folders, *, point: str | None = None, dataset: str | None = None
) -> Registered:
    """Put an operating point of a finished run into MLflow's registry, with an ONNX file.

    Raises:
        RecordError: there is no such finished run, or MLflow does not take it.
        Unsupported: the network cannot be written as ONNX.
    """
    store = RunStore(folders.results)
    record = finished_run(store, run)
    with tempfile.TemporaryDirectory(prefix="bench-export-") as folder:
        out = Path(folder) / "model.onnx"
        made = export(
            record.run, folders, file_format="onnx", point=point, out=out, dataset=dataset
        )
        return register_point(record, made.description.point, out, store=store)


def _at_their_data(
    runs: Sequence[str], folders: Folders, device: str, dataset: str | None, reporter: Reporter
) -> Iterator[tuple[list[RunRecord], Workplace]]:
    """Yield the finished records of `runs` by data set, each time with their images at hand.

    A path that a record names is not followed.
    """
    store = RunStore(folders.results)
    found = [record for name in runs for record in finished_runs(store, name)]
    records = {record.run: record for record in found}.values()
    for name in dict.fromkeys(record.spec.dataset.name for record in records):
        if dataset is None and not is_named(name):
            raise DataError(
                f"The run was trained on '{name}', a folder whose place no record keeps.",
                hint="Give the folder with --dataset.",
            )
        members = [record for record in records if record.spec.dataset.name == name]
        data = load_dataset(dataset or name, data_dir=folders.data)
        for member in members:
            check_same_data(member.spec, data)
        yield members, Workplace(data, store, pick_device(device), reporter)


def _failure(run: str, error: BenchError) -> Failure:
    return Failure(run, error.message, error.hint or "")


def rows_of(outcome: CommandResult) -> list[Row]:
    """Return the rows of what a command did."""
    from bench.report.data.rows import rows

    return rows(outcome.records)
