"""The provenance of the results: machines, recipes, seeds, budgets, sweeps, and the holes, each
with its reason. From records alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from bench.records.record import PointRecord, RunRecord
from bench.records.store import Problem
from bench.records.sweep import SweepRecord
from bench.report.behaviour.numbers import why_no_gradients
from bench.report.data.study import Study
from bench.report.tables.cells import ReportTable, number, table_of

Line = dict[str, str]


def provenance_tables(
    study: Study, problems: Sequence[Problem], sweeps: Sequence[SweepRecord]
) -> list[ReportTable]:
    """Return the tables of how it was done; some may have no line."""
    records = sorted(study.records, key=lambda record: record.run)
    begun = "Every run: what it started from, what it cost in epochs of the dense network, when."
    guessed = "Settings that no publication states, filled in here."
    return [
        table_of("runs", begun, list(map(_run, records))),
        table_of("recipes", "Training budgets.", list(_recipes(records))),
        table_of("reconstructed", guessed, list(_reconstructed(records))),
        table_of("sweeps", "Sweeps, and how a trial was chosen.", list(map(_sweep, sweeps))),
        table_of("holes", "What failed or is missing, and why.", list(_holes(study, problems))),
        table_of("environment", "Machine and versions.", list(_environment(records))),
    ]


def _run(record: RunRecord) -> Line:
    spec, training, known = record.spec, record.training, record.environment.values
    dirty = " (changed)" if known.get("git_dirty") else ""
    epochs = cost = start = ""
    if training is not None:
        epochs, cost = str(training.epochs), f"{training.dense_epochs:.1f}"
        unknown = f"unknown: {training.pretraining_reason}".removesuffix(": ")
        start = number(training.pretraining_dense_epochs, ".1f", none=unknown)
    return {
        "run": record.run,
        "status": record.status,
        "variant": record.variant,
        "recipe": spec.budget.recipe,
        "seed": str(spec.seed),
        "epochs": epochs,
        "dense epochs": cost,
        "start": "from scratch" if spec.initial is None else spec.initial.name,
        "start, dense epochs": start,
        "held out": str(spec.held_out),
        "commit": f"{str(known.get('git_commit') or 'unknown')[:10]}{dirty}",
        "made": record.created[:16].replace("T", " "),
        "minutes": f"{record.wall_s / 60:.1f}",
    }


def _recipes(records: Sequence[RunRecord]) -> Iterator[Line]:
    alike: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        spec, budget = record.spec, record.spec.budget
        of_record = budget.recipe, str(budget.epochs), _optimizer(record), spec.precision
        alike[of_record].append(record)
    for shared, of in alike.items():
        yield {
            **dict(zip(("recipe", "epochs", "optimizer", "precision"), shared, strict=True)),
            "seeds": _listed(record.spec.seed for record in of),
            "methods": _listed(record.spec.method for record in of),
        }


def _optimizer(record: RunRecord) -> str:
    """Return the optimizer of a run in words, phase by phase where a paper's phases differ."""
    budget, training = record.spec.budget, record.training
    used = [(budget.batch_size, budget.optimizer)]
    if budget.published:
        used = [] if training is None else [(p.batch_size, p.optimizer) for p in training.phases]
    said = (
        f"{one.kind}, rate {one.lr:g} {one.schedule}, momentum {one.momentum:g}, weight decay "
        f"{one.weight_decay:g}, batch size {size}"
        for size, one in used
    )
    return "; then ".join(dict.fromkeys(said)) or "the paper's"


def _reconstructed(records: Sequence[RunRecord]) -> Iterator[Line]:
    guessed: dict[str, set[str]] = defaultdict(set)
    for record in records:
        guessed[record.spec.method].update(record.reconstructed)
    for method, names in sorted(guessed.items()):
        if names:
            yield {"method": method, "settings": _listed(names)}


def _sweep(sweep: SweepRecord) -> Line:
    states = Counter(trial.status for trial in sweep.trials)
    return {
        "sweep": sweep.name,
        "methods": _listed(trial.method for trial in sweep.trials),
        "chosen by": f"{sweep.criterion}, on {sweep.held_out:,} held-out images",
        "trials": str(len(sweep.trials)),
        "stopped early": str(states["stopped"]),
        "failed": str(states["failed"]),
        "state": "ended" if sweep.ended else "not ended",
        "chosen runs": ", ".join(run for runs in sweep.chosen.values() for run in runs),
        "begun": sweep.created[:16].replace("T", " "),
    }


def _holes(study: Study, problems: Sequence[Problem]) -> Iterator[Line]:
    unfinished = [record for record in study.records if record.status != "finished"]
    holes = [(record.run, f"the run {record.status}", record.reason) for record in unfinished]
    holes += [(one.name, "its record is not counted", one.reason) for one in problems]
    for record, point in _points(study.records):
        name = f"{record.run} {point.name}".strip()
        holes += [(name, what, reason) for what, reason in _missing(point, run=record.run)]
    if alone := sum(network.seeds == 1 for network in study.networks):
        reason = "no interval over seeds: the variance of training is not known"
        holes.append((f"{alone} of {len(study.networks)} networks", "single seed", reason))
    for of, missing, why in dict.fromkeys(holes):
        yield {"of": of, "missing": missing, "why": why or "no reason on record"}


def _missing(point: PointRecord, *, run: str) -> Iterator[tuple[str, str]]:
    timed = {(cell.runtime, cell.batch_size) for cell in point.latency if cell.latency_ms}
    if not point.latency:
        yield "latency", "not timed"
    for cell in point.latency:
        if cell.latency_ms is None and (cell.runtime, cell.batch_size) not in timed:
            yield f"latency at batch {cell.batch_size}, {cell.runtime}", cell.reason
    if not point.block_gradients:
        yield "gradients per block", why_no_gradients(point, run=run)
    dynamics = point.dynamics
    if dynamics is None:
        if point.gated_blocks:
            yield "shuffled masks, difficulty", "one mask for all, or a record from before"
        return
    if dynamics.shuffled_accuracy is None:
        yield "shuffled masks", dynamics.shuffled_reason
    if dynamics.difficulty_correlation is None:
        yield "cost against difficulty", dynamics.difficulty_reason


def _environment(records: Sequence[RunRecord]) -> Iterator[Line]:
    """Yield each fact of the machine; of one that differs, how many runs say what."""
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        for key, value in record.environment.values.items():
            values[key][str(value)] += 1
    for key, found in values.items():
        shown = [f"{value} ({count} runs)" for value, count in found.most_common(3)]
        if len(found) > 3:
            shown.append(f"{len(found) - 3} others")
        yield {"what": key, "value": next(iter(found)) if len(found) == 1 else "; ".join(shown)}


def _points(records: Iterable[RunRecord]) -> Iterator[tuple[RunRecord, PointRecord]]:
    return ((record, point) for record in records for point in record.points)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, sorted(set(values), key=str)))
