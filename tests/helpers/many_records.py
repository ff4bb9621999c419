"""Thousands of synthetic runs, true to the schema: reference runs with other seeds, settings.

As a script: python tests/helpers/many_records.py FOLDER [COUNT].
"""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench.config import Frozen, RunSpec
from bench.records.document import decode, encode
from bench.records.record import LatencyCell, PointRecord, RunRecord
from bench.records.store import RECORD_FILE

REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "runs"
SEEDS = 4
"""Runs of one setting."""
_IMAGES = 16
# Beside the reference runs: what else a large folder may hold, made from records of SGAD.
_MORE = (
    ("sgad", "beta"),
    ("sgad", "constant"),
    ("skipnet", "ff1"),
    ("skipnet", "ff2"),
    ("blockdrop", "as printed"),
    ("branchynet", "grid"),
    ("convnet_aig", "per layer"),
)

Template = tuple[RunRecord, str, str]
F = TypeVar("F", bound=Frozen)


def write_many(results_dir: Path, count: int, *, seed: int = 0) -> list[str]:
    """Write `count` runs with their arrays into `results_dir`; return their names.

    The first are a dense network of each kind. One run in 50 has failed; half are not timed.
    """
    chance = random.Random(seed)
    names = []
    for record in _records(_templates(), count, chance):
        folder = results_dir / "runs" / record.run
        folder.mkdir(parents=True)
        # Without the care for sudden death that the store takes: it would take minutes.
        (folder / RECORD_FILE).write_bytes(encode(record))
        for file, content in _array_files(record):
            (folder / file).write_bytes(content)
        names.append(record.run)
    return names


def _templates() -> list[Template]:
    records = [decode(path.read_bytes()) for path in sorted(REFERENCE.glob("*/record.json"))]
    records = [record for record in records if record.spec.seed == 0]  # other seeds are made here
    records.sort(key=lambda record: record.spec.method != "resnet")
    own = [(record, record.spec.method, record.variant) for record in records]
    gated = next(record for record in records if record.spec.method == "sgad")
    return own + [(gated, method, variant) for method, variant in _MORE]


def _records(templates: list[Template], count: int, chance: random.Random) -> Iterator[RunRecord]:
    for number in range(count):
        setting, seed = divmod(number, SEEDS)
        template = templates[setting % len(templates)]
        as_it_was = setting < len(templates) - len(_MORE)
        yield _altered(template, seed=seed, step=0 if as_it_was else setting, chance=chance)


def _altered(template: Template, *, seed: int, step: int, chance: random.Random) -> RunRecord:
    record, method, variant = template
    spec, knob = _other_spec(record.spec, method, seed=seed, step=step)
    name = ", ".join(part for part in (variant, knob) if part) if step else variant
    shift = random.Random(f"{method}{variant}{step}").gauss(0, 0.02)
    timed = chance.random() < 0.5
    failed = step > 0 and chance.random() < 0.02
    points = () if failed else record.points
    return _with(
        record,
        run=spec.run,
        spec=spec,
        variant=name,
        status="failed" if failed else "finished",
        reason="the loss is not a number at epoch 3" if failed else "",
        training=None if failed else record.training,
        points=tuple(
            _moved(point, record, shift=shift, timed=timed, chance=chance) for point in points
        ),
        wall_s=record.wall_s * chance.uniform(0.9, 1.1),
    )


def _other_spec(spec: RunSpec, method: str, *, seed: int, step: int) -> tuple[RunSpec, str]:
    """Return the spec of another seed and, unless `step` is 0, another setting, and its name."""
    config = dict(spec.config)
    budget = spec.budget
    numbers = [key for key, value in config.items() if isinstance(value, float)]
    if step and numbers:
        key = numbers[0]
        config[key] = round(config[key] * (1 + step / 1000), 6)
        knob = f"{key}={config[key]:g}"
    else:
        epochs = budget.epochs + step
        budget = budget.model_copy(update={"epochs": epochs})
        knob = f"{epochs} epochs"
    changes = {"method": method, "config": config, "budget": budget, "seed": seed}
    return _with(spec, **changes), knob


def _moved(
    point: PointRecord,
    record: RunRecord,
    *,
    shift: float,
    timed: bool,
    chance: random.Random,
) -> PointRecord:
    """Return the point with another accuracy and, if it has gates, another cost."""
    correct = round(min(0.99, max(0.1, point.accuracy + chance.gauss(shift / 4, 0.003))) * 10_000)
    scale = max(0.1, 1 + shift * 5 + chance.gauss(0, 0.01)) if point.gated_blocks else 1.0
    return _with(
        point,
        accuracy=correct / 10_000,
        correct=correct,
        macs=point.macs * scale,
        nflops=point.nflops * scale,
        nflops_backbone=point.nflops_backbone * scale,
        latency=tuple(_slower(cell, chance) for cell in point.latency) if timed else (),
    )


def _slower(cell: LatencyCell, chance: random.Random) -> LatencyCell:
    if cell.latency_ms is None:
        return cell
    return _with(cell, latency_ms=cell.latency_ms * chance.uniform(0.9, 1.1))


def _with(model: F, **changes: Any) -> F:
    # The parts are checked where they are made; to check all again costs most of the time.
    unknown = set(changes) - set(type(model).model_fields)
    assert not unknown, unknown
    return model.model_copy(update=changes)


def _array_files(record: RunRecord) -> Iterator[tuple[str, bytes]]:
    for point in record.points:
        yield point.arrays_file, _arrays(len(record.unit_macs), point.macs)
        yield from ((cell.raw_file, _TIMES) for cell in point.latency if cell.raw_file)


def _arrays(units: int, macs: float) -> bytes:
    steps = np.arange(_IMAGES)
    return _npz(
        correct_bits=np.packbits(steps % 8 != 0),
        executed_nu=np.ones((_IMAGES, units), np.float32),
        macs_n=macs * (0.9 + 0.2 * steps / _IMAGES),
        loss_n=(steps % 5).astype(np.float32),
    )


def _npz(**arrays: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


_TIMES = _npz(
    round_n=np.arange(4, dtype=np.int32),
    image_nb=np.arange(4, dtype=np.int32)[:, None],
    ms_n=np.array([2.0, 2.1, 2.0, 1.9]),
    process_n=np.zeros(4, np.int32),
)


if __name__ == "__main__":
    print(len(write_many(Path(sys.argv[1]), int((sys.argv[2:] or ["10000"])[0]))), "runs")
