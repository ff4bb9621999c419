"""The provenance of the results: machines, recipes, seeds, budgets, sweeps, and the holes.

Owns these tables, from records alone; what could not be had stands there with its reason.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from bench.records.record import UNKNOWN_RUNTIME, PointRecord, RunRecord, TrainingRecord
from bench.records.store import Problem
from bench.records.sweep import SweepRecord
from bench.report.behaviour.gradients import why_no_gradients
from bench.report.data.notes import FORWARD_ONLY
from bench.report.data.study import Study
from bench.report.tables.cells import ReportTable, number, table_of

_FEW = 3
NO_REASON = "no reason on record"


def provenance_tables(
    study: Study, problems: Sequence[Problem], sweeps: Sequence[SweepRecord]
) -> list[ReportTable]:
    """Return the tables of how it was done, those without a line left out."""
    records = study.records
    parts = {
        "runs": [_run(record) for record in sorted(records, key=lambda record: record.run)],
        "recipes": _recipes(records),
        "timing": _timing(records),
        "resources": _resources(records),
        "reconstructed": _reconstructed(records),
        "sweeps": [_sweep(sweep) for sweep in sweeps],
        "holes": _holes(study, problems),
        "environment": _environment(records),
    }
    return [table_of(name, _CAPTIONS[name], lines) for name, lines in parts.items() if lines]


_CAPTIONS = {
    "runs": "Every run: what it started from, what it cost in epochs of the dense network, when. "
    f"{FORWARD_ONLY}: counted by forward passes alone.",
    "recipes": "Training budgets.",
    "timing": "What was timed, by machine, threads and batch size.",
    "resources": "The first call of a process, peak memory of one call, energy of the device.",
    "reconstructed": "Settings that no publication states, filled in here.",
    "sweeps": "Sweeps, and by which criterion one trial was chosen.",
    "holes": "What failed or is missing, and why.",
    "environment": "Machine and versions, as the records state them.",
}


def _run(record: RunRecord) -> dict[str, str]:
    spec, training, known = record.spec, record.training, record.environment.values
    dirty = " (changed)" if known.get("git_dirty") else ""
    return {
        "run": record.run,
        "status": record.status,
        "variant": record.variant,
        "recipe": spec.budget.recipe,
        "seed": str(spec.seed),
        "epochs": "" if training is None else str(training.epochs),
        "dense epochs": "" if training is None else _dense_epochs(training),
        "start": "from scratch" if spec.initial is None else spec.initial.name,
        "start, dense epochs": "" if training is None else _start_cost(training),
        "held out": str(spec.held_out),
        "commit": f"{str(known.get('git_commit') or 'unknown')[:10]}{dirty}",
        "made": record.created[:16].replace("T", " "),
        "minutes": f"{record.wall_s / 60:.1f}",
    }


def _dense_epochs(training: TrainingRecord) -> str:
    """Return a run's own cost; marked where an older record counts forward passes alone."""
    forward_only = any(phase.step_macs_per_image is None for phase in training.phases)
    return f"{training.dense_epochs:.1f}{FORWARD_ONLY if forward_only else ''}"


def _start_cost(training: TrainingRecord) -> str:
    unknown = f"unknown: {training.pretraining_reason}".removesuffix(": ")
    return number(training.pretraining_dense_epochs, ".1f", none=unknown)


def _recipes(records: Sequence[RunRecord]) -> list[dict[str, str]]:
    by_recipe: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        content = [record.spec.budget.model_dump(mode="json"), record.spec.precision, _used(record)]
        by_recipe[json.dumps(content, sort_keys=True)].append(record)
    return [
        {
            "recipe": same[0].spec.budget.recipe,
            "epochs": str(same[0].spec.budget.epochs),
            **_used(same[0]),
            "precision": same[0].spec.precision,
            "seeds": _listed({record.spec.seed for record in same}),
            "methods": _listed({record.spec.method for record in same}),
        }
        for same in by_recipe.values()
    ]


def _used(record: RunRecord) -> dict[str, str]:
    """Return the optimizer of a run in words, phase by phase where a paper's phases differ."""
    budget, training = record.spec.budget, record.training
    used = [(budget.batch_size, budget.optimizer)]
    if budget.published:
        phases = () if training is None else training.phases
        used = [(p.batch_size, p.optimizer) for p in phases if p.optimizer and p.batch_size]
    columns: dict[str, list[str]] = {
        "batch size": [str(size) for size, _ in used],
        "optimizer": [optimizer.kind for _, optimizer in used],
        "learning rate": [f"{optimizer.lr:g}" for _, optimizer in used],
        "momentum": [f"{optimizer.momentum:g}" for _, optimizer in used],
        "weight decay": [f"{optimizer.weight_decay:g}" for _, optimizer in used],
        "schedule": [optimizer.schedule for _, optimizer in used],
    }
    return {
        name: ", then ".join(dict.fromkeys(texts)) or "the paper's"
        for name, texts in columns.items()
    }


def _timing(records: Sequence[RunRecord]) -> list[dict[str, str]]:
    found: dict[tuple[str, ...], list[Any]] = defaultdict(list)
    for record, point in _points(records):
        for cell in point.latency:
            key = (cell.device, str(cell.threads), cell.runtime, str(cell.batch_size), cell.profile)
            found[key].append((record.run, cell))
    return [
        {
            "device": device,
            "threads": threads,
            "batch size": size,
            "runtime": runtime,
            "profile": profile,
            "networks timed": str(sum(cell.latency_ms is not None for _, cell in cells)),
            "without a time": str(sum(cell.latency_ms is None for _, cell in cells)),
            "while others ran": str(sum(cell.contended for _, cell in cells)),
            "sets of rounds": str(len({cell.dense_ms for _, cell in cells if cell.dense_ms})),
        }
        for (device, threads, runtime, size, profile), cells in sorted(found.items())
    ]


def _resources(records: Sequence[RunRecord]) -> list[dict[str, str]]:
    return [
        {
            "run": record.run,
            "point": point.name,
            "runtime": cell.runtime,
            "batch size": str(cell.batch_size),
            "first query, ms": number(cell.first_ms, ".0f"),
            "memory, MiB": number(cell.memory_mib, ".1f"),
            "energy, mJ per image": number(cell.energy_mj_per_image),
            "why not": "; ".join(
                dict.fromkeys(filter(None, (cell.memory_reason, cell.energy_reason)))
            ),
        }
        for record, point in _points(records)
        for cell in point.latency
        if cell.memory_mib is not None or cell.energy_mj_per_image is not None
    ]


def _reconstructed(records: Sequence[RunRecord]) -> list[dict[str, str]]:
    guessed: dict[str, set[str]] = defaultdict(set)
    for record in records:
        guessed[record.spec.method].update(record.reconstructed)
    return [
        {"method": method, "settings": _listed(names)}
        for method, names in sorted(guessed.items())
        if names
    ]


def _sweep(sweep: SweepRecord) -> dict[str, str]:
    states = [trial.status for trial in sweep.trials]
    return {
        "sweep": sweep.name,
        "methods": _listed({trial.method for trial in sweep.trials}),
        "chosen by": f"{sweep.criterion}, on {sweep.held_out:,} held-out images",
        "trials": str(len(states)),
        "stopped early": str(states.count("stopped")),
        "failed": str(states.count("failed")),
        "state": "ended" if sweep.ended else "not ended",
        "chosen runs": ", ".join(run for runs in sweep.chosen.values() for run in runs),
        "begun": sweep.created[:16].replace("T", " "),
    }


def _holes(study: Study, problems: Sequence[Problem]) -> list[dict[str, str]]:
    holes = [
        (record.run, f"the run {record.status}", record.reason or NO_REASON)
        for record in study.records
        if record.status != "finished"
    ]
    holes += [(one.name, "its record is not counted", one.reason) for one in problems]
    for record, point in _points(study.records):
        name = f"{record.run} {point.name}".strip()
        holes += [(name, what, reason) for what, reason in _missing(point, run=record.run)]
    alone = sum(network.seeds == 1 for network in study.networks)
    if alone:
        reason = "no interval over seeds: the variance of training is not known"
        holes.append((f"{alone} of {len(study.networks)} networks", "single seed", reason))
    return [dict(zip(("of", "missing", "why"), hole, strict=True)) for hole in dict.fromkeys(holes)]


def _missing(point: PointRecord, *, run: str) -> Iterable[tuple[str, str]]:
    timed = {(cell.runtime, cell.batch_size) for cell in point.latency if cell.latency_ms}
    if not point.latency:
        yield "latency", "not timed"
    for cell in point.latency:
        if cell.latency_ms is None and (cell.runtime, cell.batch_size) not in timed:
            where = "" if cell.runtime == UNKNOWN_RUNTIME else f", {cell.runtime}"
            yield f"latency at batch {cell.batch_size}{where}", cell.reason or NO_REASON
    if not point.block_gradients:
        yield "gradients per block", why_no_gradients(point, run=run)
    dynamics = point.dynamics
    if dynamics is None:
        if point.gated_blocks:
            yield "shuffled masks, difficulty", "one mask for all, or a record from before"
        return
    if dynamics.shuffled_accuracy is None:
        yield "shuffled masks", dynamics.shuffled_reason or NO_REASON
    if dynamics.difficulty_correlation is None:
        yield "cost against difficulty", dynamics.difficulty_reason or NO_REASON


def _environment(records: Sequence[RunRecord]) -> list[dict[str, str]]:
    values: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for record in records:
        for key, value in record.environment.values.items():
            values[key][str(value)] += 1
    return [{"what": key, "value": _spread(found)} for key, found in values.items()]


def _spread(found: dict[str, int]) -> str:
    if len(found) == 1:
        return next(iter(found))
    if len(found) <= _FEW:
        return "; ".join(f"{value} ({count} runs)" for value, count in found.items())
    try:
        numbers = [float(value) for value in found]
    except ValueError:
        return f"{len(found)} different ones"
    return f"{min(numbers):g} to {max(numbers):g}"


def _points(records: Sequence[RunRecord]) -> list[tuple[RunRecord, PointRecord]]:
    return [(record, point) for record in records for point in record.points]


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in sorted(values, key=str))
