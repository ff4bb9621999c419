"""What the command line and notebooks call: run, results, pareto, latency, figures.

Owns the order of the steps of a comparison; every step lives in its own room.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.errors import BenchError, ConfigError

if TYPE_CHECKING:
    import torch

    from bench.engine.building import Workplace
    from bench.engine.plan import Planned
    from bench.networks.weights import Weights
    from bench.options import RunOptions
    from bench.records.published import PublishedPoint
    from bench.records.record import RunRecord
    from bench.records.store import Problem, RunStore
    from bench.report.rows import Row
    from bench.training.reporter import Reporter

Notify = Callable[[str], None]
Profile = Literal["smoke", "default", "publish"]
Axis = Literal["nflops", "macs", "latency_ms"]
LATENCY_BATCH_SIZES = (1, 256)


def default_results_dir() -> Path:
    """Return $BENCH_RESULTS, or ./results."""
    return Path(os.environ.get("BENCH_RESULTS") or "results")


def default_data_dir() -> Path:
    """Return $BENCH_DATA, or ./data."""
    return Path(os.environ.get("BENCH_DATA") or "data")


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


@dataclass(frozen=True, slots=True)
class Folders:
    """Where results and data lie."""

    results: Path = field(default_factory=default_results_dir)
    data: Path = field(default_factory=default_data_dir)


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
    from bench.engine.building import Workplace
    from bench.engine.judging import judge
    from bench.engine.plan import make_plan, request_of
    from bench.networks.weights import read_weights
    from bench.records.store import RunStore
    from bench.storage import make_folder
    from bench.training.reporter import Silent

    store = RunStore(folders.results)
    device = pick_device(options.device)
    weights = read_weights(options.pretrained) if options.pretrained is not None else None
    sources = [store.get(name) for name in options.sources]
    request = request_of(options, sources=[source.spec for source in sources])
    data = load_dataset(options.dataset, data_dir=folders.data)
    _check_same_data(sources, data.info.fingerprint)
    plan = make_plan(request, data.info, train_size=len(data.train), weights=weights)
    make_folder(folders.results)
    place = Workplace(data, store, device, reporter or Silent(), weights)
    _announce(plan, request.methods, weights=weights, notify=place.reporter.note)
    if forget:
        _forget(plan, place.store)
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


def can_draw() -> bool:
    """Whether figures can be drawn here; a run works without them."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def _draw_masks(record: RunRecord, store: RunStore) -> None:
    from bench.records.store import MASKS_FIGURE, load_arrays
    from bench.report.figures import masks_figure, save_figure

    folder = store.folder_of(record)
    target = folder / MASKS_FIGURE
    if not target.exists():
        arrays = {point.name: load_arrays(folder, point.arrays_file) for point in record.points}
        save_figure(masks_figure(record, arrays), target)


def _forget(plan: Sequence[Planned], store: RunStore) -> None:
    import shutil

    for item in plan:
        shutil.rmtree(store.folder(item.spec))


def track(records: Sequence[RunRecord], store: RunStore, *, notify: Notify) -> None:
    """Log records to MLflow; what goes wrong there is said, and loses nothing."""
    from bench.records.tracking import log_records

    for result in log_records(records, store).values():
        if not result.logged:
            notify(f"MLflow: {result.detail}. Later: bench mlflow sync.")
            return


def pick_device(name: str) -> torch.device:
    """Return the torch device called auto, cpu, cuda or cuda:N.

    Raises:
        ConfigError: there is no such device on this machine.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"'{name}' is not a device.", hint="Use auto, cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("There is no CUDA device on this machine.", hint="Use --device cpu.")
    return device


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
    from bench.engine.building import Workplace
    from bench.engine.timing import time_records
    from bench.records.store import RunStore
    from bench.training.reporter import Silent

    store = RunStore(folders.results)
    records = [store.get(name) for name in runs]
    timed: list[RunRecord] = []
    for name in dict.fromkeys(record.spec.dataset.name for record in records):
        members = [record for record in records if record.spec.dataset.name == name]
        data = load_dataset(dataset or name, data_dir=folders.data)
        _check_same_data(members, data.info.fingerprint)
        place = Workplace(data, store, pick_device(device), reporter or Silent())
        done = time_records(
            members, place, profile=profile, batch_sizes=batch_sizes, threads=threads
        )
        timed.extend(done.values())
    track(timed, store, notify=(reporter or Silent()).note)
    return Outcome(timed)


def results(folders: Folders, *, expression: str | None = None) -> tuple[list[Row], list[Problem]]:
    """Return one row per operating point of all records, and the records that cannot be read.

    Raises:
        ConfigError: `expression` is not KEY=VALUE or names an unknown key.
    """
    from bench.records.store import RunStore
    from bench.report.rows import filter_rows, rows

    inventory = RunStore(folders.results).load_all()
    found = rows(inventory.records)
    if expression is not None:
        found = filter_rows(found, expression)
    return found, inventory.problems


def pareto(
    folders: Folders,
    *,
    x: Axis = "nflops",
    dataset: str | None = None,
    published: bool = False,
    out: Path | None = None,
) -> Path:
    """Draw accuracy against cost of all finished runs on one data set; return the file.

    Raises:
        ConfigError: there is nothing to draw, or several data sets and none chosen.
    """
    found, _ = results(folders)
    names = [row["dataset"] for row in found if row["accuracy"] is not None]
    dataset = _one_dataset(names, dataset, start="bench run")
    chosen = [row for row in found if row["dataset"] == dataset]
    target = out or folders.results / "figures" / f"pareto-{dataset}-{x}.html"
    _draw(chosen, x=x, papers=_papers(chosen) if published else [], out=target)
    return target


def figures(folders: Folders, *, dataset: str | None = None, out: Path | None = None) -> list[Path]:
    """Draw the latency figures of all timed runs on one data set; return the files.

    Raises:
        ConfigError: nothing was timed, or several data sets were and none is chosen.
    """
    from bench.records.store import RunStore
    from bench.report.saving import was_timed

    records = [r for r in RunStore(folders.results).load_all().records if was_timed(r)]
    name = _one_dataset([r.spec.dataset.name for r in records], dataset, start="bench latency RUN")
    chosen = [record for record in records if record.spec.dataset.name == name]
    return draw_latency(Outcome(chosen), folders, out=out)


def draw_latency(outcome: Outcome, folders: Folders, *, out: Path | None = None) -> list[Path]:
    """Draw time against MACs and ranks of timed runs, per data set; return the files drawn."""
    from bench.records.store import RunStore
    from bench.report.latency_figures import draw_figures

    if not can_draw():
        return []
    folder = out or folders.results / "figures"
    return draw_figures(outcome.records, RunStore(folders.results), folder)


def _one_dataset(names: Sequence[str], chosen: str | None, *, start: str) -> str:
    """Return the data set to draw: the one chosen, or the only one.

    Raises:
        ConfigError: it is not among `names`, or there are several and none is chosen.
    """
    known = sorted(set(names))
    if chosen is None and len(known) == 1:
        return known[0]
    if chosen is None or chosen not in known:
        what = f"on '{chosen}'" if chosen else "to draw: choose with --dataset"
        hint = f"Recorded: {', '.join(known)}." if known else f"Start with: {start}"
        raise ConfigError(f"There are no finished runs {what}.", hint=hint)
    return chosen


def rows_of(outcome: Outcome) -> list[Row]:
    """Return the rows of what a command did."""
    from bench.report.rows import rows

    return rows(outcome.records)


def draw_outcome(outcome: Outcome, folders: Folders) -> Path | None:
    """Draw the runs of one command into the results folder; return the file, if one was drawn."""
    found = [row for row in rows_of(outcome) if row["accuracy"] is not None]
    if not found or not can_draw():
        return None
    target = folders.results / "figures" / f"run-{found[0]['dataset']}.png"
    _draw(found, x="nflops", papers=[], out=target)
    return target


def _draw(found: list[Row], *, x: Axis, papers: Sequence[PublishedPoint], out: Path) -> None:
    from bench.storage import make_folder, write_atomically

    make_folder(out.parent)
    if out.suffix == ".html":
        from bench.report.page import pareto_page

        write_atomically(out, pareto_page(found, x=x, published=papers).encode())
        return
    from bench.report.figures import pareto_figure, save_figure

    save_figure(pareto_figure(found, x=x, published=papers), out)


def _papers(found: Sequence[Row]) -> list[PublishedPoint]:
    from bench.records.published import load_published

    backbones = {row["backbone"] for row in found}
    return [
        point
        for backbone in sorted(backbones)
        for point in load_published(str(found[0]["dataset"]), backbone)
        if point.accuracy is not None and point.nflops is not None
    ]


def _check_same_data(records: Sequence[RunRecord], fingerprint: str) -> None:
    from bench.errors import DataError

    for record in records:
        if record.spec.dataset.fingerprint != fingerprint:
            raise DataError(
                f"{record.run} was trained on other images called '{record.spec.dataset.name}'.",
                hint="Point --data-dir to the data set of that run.",
            )
