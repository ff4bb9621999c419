"""The table of SGAD's variants in docs/methods.md and the static networks beside them, from runs of
results/reference/variants.yaml."""

from __future__ import annotations

from pathlib import Path

from bench.method import METHODS
from bench.records.record import RunRecord
from bench.records.store import RunStore

VARIANTS = Path(__file__).parents[2] / "results" / "reference" / "variants"
_TITLES = (
    *("settings", "held-out accuracy, %", "nFLOPs, held-out", "test accuracy, %", "nFLOPs, test"),
    *("dropped in training, %", "dropped in evaluation, %", "asked for, %", "masks"),
)
_AIM = {"d_max": 0.6}


def variant_table(results_dir: Path = VARIANTS) -> str:
    """Return a Markdown table: a line per finished variant, as they were recorded, then the static
    networks with as many epochs, their cost relative to the backbone of the variants."""
    done = [r for r in RunStore(results_dir).load_all().records if r.status == "finished"]
    done.sort(key=lambda record: record.created)
    found = [record for record in done if record.spec.method == "sgad"]
    budget = found[0].spec.budget.epochs
    static = [r for r in done if r.spec.method == "resnet" and r.spec.budget.epochs == budget]
    static.sort(key=lambda record: record.dense_macs)
    lines = [_TITLES, ("---",) * len(_TITLES), *map(_line, found)]
    lines += [_static_line(record, record.dense_macs / found[0].dense_macs) for record in static]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(record: RunRecord) -> tuple[str, ...]:
    (point,), last = record.points, record.history[-1].values
    return (
        _settings(record),
        _percent(point.accuracy_held_out),
        f"{point.nflops_held_out:.3f}",
        _percent(point.accuracy),
        f"{point.nflops:.3f}",
        _percent(last["drop"]),
        _percent(point.mean_drop),
        _percent(last["drop_asked"]),
        str(point.distinct_masks),
    )


def _static_line(record: RunRecord, cost: float) -> tuple[str, ...]:
    (point,) = record.points
    return (
        f"static {record.spec.backbone.name}",
        *(_percent(point.accuracy_held_out), f"{cost:.3f}"),
        *(_percent(point.accuracy), f"{cost:.3f}", "", "", "", ""),
    )


def _settings(record: RunRecord) -> str:
    default = METHODS.get("sgad").Config().model_dump(mode="json") | _AIM
    changed = {k: v for k, v in record.spec.config.items() if v != default.get(k)}
    return ", ".join(f"{name} {value}" for name, value in changed.items()) or "default"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
