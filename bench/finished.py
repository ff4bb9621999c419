"""What is done with finished runs: timed, evaluated again, exported, logged to MLflow.

Owns the order of these steps and where a run's images come from; every step lives in its own room.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.engine.failures import Failure
from bench.errors import BenchError
from bench.folders import Folders

if TYPE_CHECKING:
    from bench.engine.building import Workplace
    from bench.export.exporting import Exported
    from bench.records.machine_load import Sample
    from bench.records.mlflow_models import Registered
    from bench.records.record import RunRecord
    from bench.records.store import RunStore
    from bench.records.sweep import SweepRecord
    from bench.training.reporter import Reporter

Notify = Callable[[str], None]
Profile = Literal["smoke", "default", "publish"]
FileFormat = Literal["onnx", "safetensors"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did: the records of its runs, and the runs that failed."""

    records: list[RunRecord]
    failures: list[Failure] = field(default_factory=list)


def track(
    records: Sequence[RunRecord],
    store: RunStore,
    *,
    notify: Notify,
    sweeps: Sequence[SweepRecord] = (),
    load: Sequence[Sample] = (),
) -> None:
    """Log records to MLflow; what goes wrong there is said, and loses nothing."""
    from bench.records.tracking import log_records

    for result in log_records(records, store, sweeps=sweeps, load=load).values():
        if not result.logged:
            notify(f"MLflow: {result.detail}. Later: bench mlflow sync.")
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
) -> Outcome:
    """Time finished runs on this machine, together, and add the cells to their records.

    Each of `runs` may name several: all of them are meant. Without `runtimes`, all that take the
    dense network here are measured, and without `batch_sizes` those of the profile. A run that
    cannot be timed is a failure; the others are timed. `dataset` is needed for runs on a folder of
    images, whose place no record keeps.

    Raises:
        RecordError: a name is no finished run.
        DataError: the data set at hand is not the one a run was trained on.
    """
    from bench.engine.latency.timing import time_records, without_broken
    from bench.records.store import RunStore
    from bench.training.reporter import Silent

    listener, store = reporter or Silent(), RunStore(folders.results)
    outcome = Outcome([])
    for members, place in _at_their_data(
        runs, store, folders=folders, device=device, dataset=dataset, reporter=listener
    ):
        sound, broken = without_broken(members, place)
        outcome.failures.extend(Failure(run, _said(error)) for run, error in broken.items())
        done = time_records(
            sound,
            place,
            profile=profile,
            batch_sizes=batch_sizes,
            threads=threads,
            runtimes=runtimes,
        )
        outcome.records.extend(done.values())
        left = [record.run for record in sound if record.run not in done]
        outcome.failures.extend(Failure(run, "too few test images to be timed") for run in left)
    track(outcome.records, store, notify=listener.note)
    return outcome


def evaluate(
    runs: Sequence[str],
    folders: Folders,
    *,
    device: str = "auto",
    dataset: str | None = None,
    reporter: Reporter | None = None,
) -> Outcome:
    """Evaluate finished runs again from their weights, and add what their records do not hold yet.

    What is on record stays. A run that does not come out as recorded is a failure and is left as it
    is; the others are done. `dataset` is needed for runs on a folder of images.

    Raises:
        RecordError: a name is no finished run.
        DataError: the data set at hand is not the one a run was trained on.
    """
    from bench.engine.judging import judge
    from bench.engine.reevaluating import evaluate_again
    from bench.records.store import RunStore
    from bench.training.reporter import Silent

    listener, store = reporter or Silent(), RunStore(folders.results)
    outcome = Outcome([])
    for members, place in _at_their_data(
        runs, store, folders=folders, device=device, dataset=dataset, reporter=listener
    ):
        for record in members:
            try:
                outcome.records.append(evaluate_again(record, place))
            except BenchError as error:
                outcome.failures.append(Failure(record.run, _said(error)))
    judged = judge(outcome.records, store)
    track(judged, store, notify=listener.note)
    return Outcome(judged, outcome.failures)


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
    from bench.records.choosing import finished_run
    from bench.records.store import RunStore
    from bench.training.reporter import Silent

    store = RunStore(folders.results)
    (((record,), place),) = _at_their_data(
        [finished_run(store, run).run],
        store,
        folders=folders,
        device="cpu",
        dataset=dataset,
        reporter=reporter or Silent(),
    )
    return export_record(record, place, file_format=file_format, point=point, out=out)


def register(
    run: str, folders: Folders, *, point: str | None = None, dataset: str | None = None
) -> Registered:
    """Put an operating point of a finished run into MLflow's registry, with an ONNX file.

    Raises:
        RecordError: there is no such finished run, or MLflow does not take it.
        Unsupported: the network cannot be written as ONNX.
    """
    from bench.export.exporting import export_record
    from bench.records.choosing import finished_run
    from bench.records.store import RunStore
    from bench.records.tracking import register_point
    from bench.training.reporter import Silent

    store = RunStore(folders.results)
    record = finished_run(store, run)
    (((record,), place),) = _at_their_data(
        [record.run], store, folders=folders, device="cpu", dataset=dataset, reporter=Silent()
    )
    with tempfile.TemporaryDirectory(prefix="bench-export-") as folder:
        out = Path(folder) / "model.onnx"
        made = export_record(record, place, file_format="onnx", point=point, out=out)
        return register_point(record, made.description.point, out, store=store)


def _at_their_data(
    runs: Sequence[str],
    store: RunStore,
    *,
    folders: Folders,
    device: str,
    dataset: str | None,
    reporter: Reporter,
) -> Iterator[tuple[list[RunRecord], Workplace]]:
    """Yield the finished records of `runs` by data set, each time with their images at hand."""
    from bench.data.load import load_dataset
    from bench.engine.building import Workplace, check_same_data
    from bench.engine.devices import pick_device
    from bench.records.choosing import finished_runs

    found = [record for name in runs for record in finished_runs(store, name)]
    records = list({record.run: record for record in found}.values())
    for name in dict.fromkeys(record.spec.dataset.name for record in records):
        members = [record for record in records if record.spec.dataset.name == name]
        data = load_dataset(dataset or _recorded(name), data_dir=folders.data)
        for member in members:
            check_same_data(member.spec, data)
        yield members, Workplace(data, store, pick_device(device), reporter)


def _said(error: BenchError) -> str:
    return f"{error.message} {error.hint}" if error.hint else error.message


def _recorded(name: str) -> str:
    """Return the data set that a record names; a path in it is not followed."""
    from bench.data.load import is_named
    from bench.errors import DataError

    if not is_named(name):
        raise DataError(
            f"The run was trained on '{name}', a folder whose place no record keeps.",
            hint="Give the folder with --dataset.",
        )
    return name
