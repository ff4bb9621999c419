"""What the command line and notebooks call: run, results, pareto, latency.

Owns the order of the steps of a comparison; every step lives in its own room.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.errors import BenchError, ConfigError, UserError

if TYPE_CHECKING:
    import torch

    from bench.engine.plan import Planned, Request
    from bench.engine.single import Workplace
    from bench.records.record import RunRecord
    from bench.records.store import RunStore
    from bench.training.reporter import Reporter

Notify = Callable[[str], None]
Profile = Literal["smoke", "default", "publish"]
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
    error: Exception


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
    request: Request,
    dataset: str,
    *,
    folders: Folders,
    device: str = "auto",
    pretrained: Path | None = None,
    latency: Profile | None = "smoke",
    reporter: Reporter | None = None,
) -> Outcome:
    """Train, evaluate, count and time the methods of `request`; finished runs are not repeated.

    A method that fails does not stop the others. Latency is measured last, for all networks
    together, because a speed-up is a ratio within the same rounds.

    Raises:
        UserError: the request cannot be served as given; nothing has been started.
    """
    from bench.data.load import load_dataset
    from bench.engine.plan import make_plan
    from bench.engine.single import Workplace
    from bench.networks.weights import read_weights
    from bench.records.store import RunStore
    from bench.storage import make_folder
    from bench.training.reporter import Silent

    weights = read_weights(pretrained) if pretrained is not None else None
    data = load_dataset(dataset, data_dir=folders.data)
    plan = make_plan(request, data.info, train_size=len(data.train), weights=weights)
    make_folder(folders.results)
    listener = reporter or Silent()
    place = Workplace(data, RunStore(folders.results), pick_device(device), listener, weights)
    outcome = _perform_all(plan, place)
    if latency is not None:
        timed = _time_all(outcome.records, place, latency, again=False)
        outcome = Outcome(timed, outcome.failures)
    track(outcome.records, place.store, notify=listener.note)
    return outcome


def remove_finished(plan: Sequence[Planned], store: RunStore) -> None:
    """Forget the finished records of `plan`, so that their runs are done again."""
    import shutil

    for item in plan:
        shutil.rmtree(store.folder(item.spec), ignore_errors=True)


def track(records: Sequence[RunRecord], store: RunStore, *, notify: Notify) -> None:
    """Log records to MLflow; what goes wrong there is said, and loses nothing."""
    from bench.records.tracking import log_record

    for record in records:
        result = log_record(record, store.folder_of(record), results_dir=store.results_dir)
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
    for item in plan:
        try:
            if item.needs is not None:
                place.reporter.note(f"{item.spec.method} starts from {item.needs.run}")
                perform(item.needs, place)
            outcome.records.append(perform(item.spec, place))
        except Exception as error:
            reason = error.message if isinstance(error, BenchError) else repr(error)
            outcome.failures.append(Failure(item.spec.run, reason, error))
            place.reporter.note(f"{item.spec.run} failed: {reason}")
    if not outcome.records and outcome.failures and len(plan) == 1:
        error = outcome.failures[0].error
        if isinstance(error, UserError):
            raise error
    return outcome


def _time_all(
    records: Sequence[RunRecord], place: Workplace, profile: Profile, *, again: bool
) -> list[RunRecord]:
    from bench.engine.timing import time_records

    waiting = [r for r in records if again or not all(point.latency for point in r.points)]
    timed = time_records(
        waiting, place, profile=profile, batch_sizes=LATENCY_BATCH_SIZES
    )
    return [timed.get(record.run, record) for record in records]
