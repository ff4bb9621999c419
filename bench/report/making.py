"""How the results of a report were made: machines, recipes, seeds, budgets, sweeps, and the holes.

Owns these tables, from records alone; what could not be had stands there with its reason.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from bench.plain_text import one_line
from bench.records.record import LatencyCell, PointRecord, RunRecord, TrainingRecord
from bench.records.store import Problem
from bench.records.sweep import SweepRecord
from bench.report.groups import FORWARD_ONLY
from bench.report.report_table import ReportTable, table_of
from bench.report.verdict_inputs import families

_FEW = 3


def making_tables(
    records: Sequence[RunRecord], problems: Sequence[Problem], sweeps: Sequence[SweepRecord]
) -> list[ReportTable]:
    """Return the tables of how it was done, those without a line left out."""
    tables = [
        _runs(records),
        _recipes(records),
        _timing(records),
        _resources(records),
        _reconstructed(records),
        _sweeps(sweeps),
        _holes(records, problems),
        _environment(records),
    ]
    return [table for table in tables if table.lines]


def _runs(records: Sequence[RunRecord]) -> ReportTable:
    ordered = sorted(records, key=lambda record: record.run)
    caption = (
        "Every run: what it started from, what it cost in epochs of the dense network, when. "
        f"{FORWARD_ONLY}: counted by forward passes alone."
    )
    return table_of("runs", caption, [_run(record) for record in ordered])


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
        "start, dense epochs": _start_cost(record),
        "held out": str(spec.held_out),
        "commit": f"{str(known.get('git_commit') or 'unknown')[:10]}{dirty}",
        "made": record.created[:16].replace("T", " "),
        "minutes": f"{record.wall_s / 60:.1f}",
    }


def _dense_epochs(training: TrainingRecord) -> str:
    """Return a run's own cost; marked where an older record counts forward passes alone."""
    forward_only = any(phase.step_macs_per_image is None for phase in training.phases)
    return f"{training.dense_epochs:.1f}{FORWARD_ONLY if forward_only else ''}"


def _start_cost(record: RunRecord) -> str:
    if record.training is None:
        return ""
    cost = record.training.pretraining_dense_epochs
    if cost is None:
        return f"unknown: {record.training.pretraining_reason}".removesuffix(": ")
    return f"{cost:.1f}"


def _recipes(records: Sequence[RunRecord]) -> ReportTable:
    by_recipe: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        content = [record.spec.budget.model_dump(mode="json"), record.spec.precision, _used(record)]
        by_recipe[json.dumps(content, sort_keys=True)].append(record)
    lines = []
    for same in by_recipe.values():
        budget = same[0].spec.budget
        lines.append(
            {
                "recipe": budget.recipe,
                "epochs": str(budget.epochs),
                **_used(same[0]),
                "precision": same[0].spec.precision,
                "seeds": _listed({record.spec.seed for record in same}),
                "methods": _listed({record.spec.method for record in same}),
            }
        )
    return table_of("recipes", "Training budgets.", lines)


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


def _timing(records: Sequence[RunRecord]) -> ReportTable:
    found: dict[tuple[str, ...], list[Any]] = defaultdict(list)
    for record, point in _points(records):
        for cell in point.latency:
            key = (cell.device, str(cell.threads), cell.runtime, str(cell.batch_size), cell.profile)
            found[key].append((record.run, cell))
    lines = [
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
    return table_of("timing", "What was timed, by machine, threads and batch size.", lines)


def _resources(records: Sequence[RunRecord]) -> ReportTable:
    lines = [
        {
            "run": record.run,
            "point": point.name,
            "batch size": str(cell.batch_size),
            "first query, ms": _number(cell.first_ms, ".0f"),
            "memory, MiB": _number(cell.memory_mib, ".1f"),
            "energy, mJ per image": _number(cell.energy_mj_per_image, ".2f"),
            "why not": "; ".join(dict.fromkeys(filter(None, _reasons(cell)))),
        }
        for record, point in _points(records)
        for cell in point.latency
        if cell.memory_mib is not None or cell.energy_mj_per_image is not None
    ]
    caption = "The first call of a process, peak memory of one call, energy of the whole device."
    return table_of("resources", caption, lines)


def _reasons(cell: LatencyCell) -> tuple[str, str]:
    return cell.memory_reason, cell.energy_reason


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _reconstructed(records: Sequence[RunRecord]) -> ReportTable:
    guessed: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.reconstructed:
            guessed[record.spec.method].update(record.reconstructed)
    lines = [
        {"method": method, "settings": _listed(names)} for method, names in sorted(guessed.items())
    ]
    caption = "Settings that no publication states, filled in here."
    return table_of("reconstructed", caption, lines)


def _sweeps(sweeps: Sequence[SweepRecord]) -> ReportTable:
    lines = []
    for sweep in sweeps:
        states = [trial.status for trial in sweep.trials]
        lines.append(
            {
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
        )
    return table_of("sweeps", "Sweeps, and by which criterion one trial was chosen.", lines)


def _holes(records: Sequence[RunRecord], problems: Sequence[Problem]) -> ReportTable:
    lines: dict[tuple[str, str, str], None] = {}
    for record in records:
        if record.status != "finished":
            lines[
                record.run, f"the run {record.status}", record.reason or "no reason on record"
            ] = None
    for problem in problems:
        lines[problem.name, "its record is not counted", problem.reason] = None
    for record, point in _points(records):
        for what, reason in _missing(point):
            lines[_named(record, point), what, reason] = None
    lines |= dict.fromkeys((name, "single seed", reason) for name, reason in _single(records))
    cells = [{"of": run, "missing": what, "why": one_line(reason)} for run, what, reason in lines]
    caption = "What failed or is missing, and why."
    return table_of("holes", caption, cells)


def _missing(point: PointRecord) -> Iterable[tuple[str, str]]:
    sizes = {cell.batch_size for cell in point.latency if cell.latency_ms is not None}
    if not point.latency:
        yield "latency", "not timed"
    for cell in point.latency:
        if cell.latency_ms is None and cell.batch_size not in sizes:
            yield f"latency at batch {cell.batch_size}", cell.reason or "no reason on record"
    if not point.block_gradients:
        reason = point.block_gradients_reason or "a record from before: bench evaluate RUN adds it"
        yield "gradients per block", reason
    dynamics = point.dynamics
    if dynamics is None:
        if point.gated_blocks:
            yield "shuffled masks, difficulty", "one mask for all, or a record from before"
        return
    if dynamics.shuffled_accuracy is None:
        yield "shuffled masks", dynamics.shuffled_reason or "no reason on record"
    if dynamics.difficulty_correlation is None:
        yield "cost against difficulty", dynamics.difficulty_reason or "no reason on record"


def _single(records: Sequence[RunRecord]) -> list[tuple[str, str]]:
    found = families(records)
    alone = sum(len(family.records) == 1 for family in found)
    if not alone:
        return []
    reason = "no interval over seeds: the variance of training is not known"
    return [(f"{alone} of {len(found)} networks", reason)]


def _environment(records: Sequence[RunRecord]) -> ReportTable:
    values: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for record in records:
        for key, value in record.environment.values.items():
            values[key][str(value)] += 1
    lines = [{"what": key, "value": _spread(found)} for key, found in values.items()]
    caption = f"Machine and versions, as {len(records)} records state them."
    return table_of("environment", caption, lines)


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


def _named(record: RunRecord, point: PointRecord) -> str:
    return f"{record.run} {point.name}".strip()


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in sorted(values, key=str))
