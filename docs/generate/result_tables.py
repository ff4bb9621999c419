"""The tables of numbers in docs/results.md, from the reference results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.records.record import Interval, RunRecord
from bench.records.store import RunStore
from bench.report.data.groups import SeedGroup, group_seeds
from bench.report.data.notes import spent
from bench.report.data.row import in_order
from bench.report.data.rows import newest_cell, rows

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
UNIT = "resnet32"


def result_tables(results_dir: Path = REFERENCE) -> tuple[str, str]:
    """Return two Markdown tables, most expensive first: accuracy, cost, time; and decisions."""
    records = RunStore(results_dir).load_all().records
    found = group_seeds(rows(records))
    beside = {record.run: record for record in records}
    unit = max(group.first.dense_macs for group in found)
    ordered = sorted(found, key=lambda group: -_mean(group, "macs"))
    costs = [_cost_line(group, unit, beside) for group in ordered]
    gated = [_gates_line(group) for group in ordered if group.first.gated_blocks]
    return _table(_COST_TITLES, costs), _table(_GATES_TITLES, gated)


_COST_TITLES = (
    *("network", "seeds", "accuracy, %", f"MACs / {UNIT}", "speed-up, batch 1"),
    *("speed-up, batch 256", "training, dense epochs"),
)
_GATES_TITLES = (
    *("network", "blocks dropped, %", "distinct masks", "sd of nFLOPs over images"),
    *("shuffled, points", "cost and difficulty"),
)


def _cost_line(group: SeedGroup, unit: float, records: Mapping[str, RunRecord]) -> tuple[str, ...]:
    spread = group.accuracy_sd
    accuracy = f"{100 * group.accuracy:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")
    return (
        _name(group),
        str(group.seeds),
        accuracy,
        f"{_mean(group, 'macs') / unit:.3f}",
        _speedup(group, 1, records),
        _speedup(group, 256, records),
        spent(group.first),
    )


def _gates_line(group: SeedGroup) -> tuple[str, ...]:
    masks = sorted({row.distinct_masks or 0 for row in group.rows})
    loss, rank = group.mean_of("shuffled_loss"), group.mean_of("difficulty_correlation")
    return (
        _name(group),
        f"{100 * _mean(group, 'mean_drop'):.1f}",
        _ends([f"{count:,}" for count in masks]),
        f"{_mean(group, 'nflops_std'):.3f}",
        "" if loss is None else f"{-100 * loss:+.2f}",
        "" if rank is None else f"{rank:+.2f}",
    )


def _name(group: SeedGroup) -> str:
    first = group.first
    parts = (f"`{first.method}`", first.variant, group.distinguishing)
    where = "" if first.backbone == UNIT else f", {first.backbone}"
    return " ".join(part for part in parts if part) + where


def _speedup(group: SeedGroup, size: int, records: Mapping[str, RunRecord]) -> str:
    """Return the speed-up over the dense network that all costs are relative to."""
    found = [_ratio(records[row.run], row.point or "", size) for row in group.rows]
    known = sorted((one for one in found if one is not None), key=lambda one: one[0])
    if len(known) != 1:
        return _ends([f"{ratio:.2f}" for ratio, _ in known]) if known else ""
    ratio, interval = known[0]
    return f"{ratio:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def _ratio(record: RunRecord, name: str, size: int) -> tuple[float, Interval] | None:
    point = next(point for point in record.points if point.name == name)
    runtimes = in_order({cell.runtime for cell in point.latency})
    cell = newest_cell(point.latency, size, runtimes[0]) if runtimes else None
    if cell is None:
        return None
    if record.spec.backbone.name != UNIT:
        label = record.spec.backbone.model_copy(update={"name": UNIT}).label
        other = cell.others.get(label)
        return None if other is None else (other.speedup, other.speedup_interval)
    if cell.speedup is None or cell.speedup_interval is None:
        return None
    return cell.speedup, cell.speedup_interval


def _ends(texts: Sequence[str]) -> str:
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def _mean(group: SeedGroup, key: str) -> float:
    value = group.mean_of(key)
    return float("nan") if value is None else value


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    listed = [titles, ["---"] * len(titles), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in listed)
