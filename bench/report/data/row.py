"""What is known of one operating point, as a row; its flat form for JSON, CSV and data frames; and
filters by its keys. How records become rows is rows.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.errors import ConfigError, UnknownNameError
from bench.plain_text import counted, one_line
from bench.records.record import LatencyCell

BATCH_SIZES = (1, 256)
"""The batch sizes that tables and verdicts speak of."""

NOT_TIMED = "not timed"
NOT_APPLICABLE = "not applicable"
"""The status of a control that cannot be made of its source: no failure."""

MAIN_RUNTIME = "eager"
"""The runtime whose times a row shows where there is room for one, if it was timed in it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One operating point of a run. None where a value was not measured; texts are on one line.

    Fractions are 0-1, `macs` per image. `dense`: nothing decides, every image runs all of the
    backbone, and it is no control. `gated_blocks` is
    their number. `total_*` contain what a run started from; `known_dense_epochs` is what is known
    of that, and `outside` where it began if the rest is not. `timings` has the latency cell of each
    runtime and batch size, the main runtime first.
    """

    run: str
    method: str
    variant: str
    dataset: str
    backbone: str
    recipe: str
    seed: int
    status: str
    reason: str
    role: str
    decision: str | None
    source: str | None
    family: str
    settings: tuple[str, ...]
    dense_macs: float
    test_images: int
    synthetic: bool
    reconstructed: tuple[str, ...]
    unchecked: tuple[str, ...]
    pretraining: str
    train_epochs: int | None = None
    published_epochs: int | None = None
    train_dense_epochs: float | None = None
    pretraining_epochs: int | None = None
    pretraining_dense_epochs: float | None = None
    start_reason: str | None = None
    point: str | None = None
    accuracy: float | None = None
    correct: int | None = None
    nflops: float | None = None
    nflops_backbone: float | None = None
    nflops_std: float | None = None
    macs: float | None = None
    params: int | None = None
    params_inference: int | None = None
    distinct_masks: int | None = None
    mean_drop: float | None = None
    dead_blocks: tuple[str, ...] | None = None
    gated_blocks: int | None = None
    shuffled_accuracy: float | None = None
    shuffled_loss: float | None = None
    difficulty_correlation: float | None = None
    dense: bool | None = None
    total_epochs: int | None = None
    known_dense_epochs: float | None = None
    total_dense_epochs: float | None = None
    outside: str | None = None
    timings: tuple[LatencyCell, ...] = ()

    @property
    def measured(self) -> bool:
        return self.status == "finished" and self.accuracy is not None

    @property
    def control(self) -> bool:
        return self.role == "control"

    @property
    def runtimes(self) -> list[str]:
        """The runtimes with a cell, the main one first."""
        return list(dict.fromkeys(timing.runtime for timing in self.timings))

    @property
    def runtime(self) -> str | None:
        """The runtime that is shown where there is room for one."""
        return self.timings[0].runtime if self.timings else None

    def timing(self, batch_size: int, runtime: str | None = None) -> LatencyCell | None:
        """Return the cell of this batch size in a runtime, without one in the main runtime."""
        wanted = (batch_size, runtime or self.runtime)
        found = (t for t in self.timings if (t.batch_size, t.runtime) == wanted)
        return next(found, None)

    def why_untimed(self, batch_size: int, runtime: str) -> str:
        """Return why there is no speed-up; of a run without operating points, its status."""
        if self.point is None:
            return self.status
        cell = self.timing(batch_size, runtime)
        alone = "timed without a dense network in the same rounds"
        return NOT_TIMED if cell is None else one_line(cell.reason) or alone


KEYS = (
    *("run", "method", "variant", "dataset", "backbone", "recipe", "seed", "accuracy", "nflops"),
    *("nflops_backbone", "macs", "params", "latency_ms_b1", "speedup_b1", "speedup_b256"),
    *("train_epochs", "status", "reason", "runtime"),
)
"""The keys of JSON and CSV that stay, in their order."""

_OF_CELL = (
    *("latency_ms", "speedup", "speedup_low", "speedup_high", "verdict", "contended", "realised"),
    *("profile", "memory_mib", "energy_mj"),
)

EXTRAS = tuple(
    name
    for name in (
        *(name for name in Row.__slots__ if name != "timings"),
        *(f"{name}_b{size}" for size in BATCH_SIZES for name in _OF_CELL),
        *("latency_device", "latency_dense_ms", "latency_reason", "latency_reason_b256"),
        *("first_ms", "by_runtime"),
    )
    if name not in KEYS
)
"""More of them; these may change with the version."""


def flat(row: Row) -> dict[str, Any]:
    """Return a row under KEYS and EXTRAS, for JSON, CSV and data frames.

    Times and speed-ups are those of `runtime`; `by_runtime` has those of each.
    """
    values: dict[str, Any] = {key: getattr(row, key, None) for key in (*KEYS, *EXTRAS)}
    for size, suffix in zip(BATCH_SIZES, ("", "_b256"), strict=True):
        cell = row.timing(size)
        if cell is not None:
            values |= _flat_cell(cell, row)
        if row.point is not None:
            values[f"latency_reason{suffix}"] = NOT_TIMED if cell is None else one_line(cell.reason)
    if (alone := row.timing(1)) is not None:
        values |= {"latency_device": place_in_words(alone), "latency_dense_ms": alone.dense_ms}
        values["first_ms"] = alone.first_ms
    for cell in row.timings:
        values["by_runtime"] = values["by_runtime"] or {}
        values["by_runtime"].setdefault(cell.runtime, {}).update(_flat_cell(cell, row))
    return {k: list(value) if isinstance(value, tuple) else value for k, value in values.items()}


def _flat_cell(cell: LatencyCell, row: Row) -> dict[str, Any]:
    """Return the numbers of a cell; `realised` is the speed-up over the ideal one, 1 / nFLOPs."""
    interval, timed = cell.speedup_interval, cell.latency_ms is not None
    derived = {
        "speedup_low": interval and interval.low,
        "speedup_high": interval and interval.high,
        "realised": cell.speedup and cell.speedup * (row.nflops or 0.0),
        "contended": cell.contended if timed else None,
        "profile": one_line(cell.profile) if timed else None,
        "energy_mj": cell.energy_mj_per_image,
    }
    found = {n: derived[n] if n in derived else getattr(cell, n) for n in _OF_CELL}
    return {f"{name}_b{cell.batch_size}": value for name, value in found.items()}


def place_in_words(cell: LatencyCell) -> str:
    """Return where a cell was measured, such as "cpu, 1 thread"."""
    return one_line(f"{cell.device}, {counted(cell.threads, 'thread')}")


def in_order(runtimes: Iterable[str]) -> list[str]:
    """Return runtimes in the order in which they are shown: first eager, which people have."""
    return sorted(set(runtimes), key=lambda name: (name != MAIN_RUNTIME, name))


def runtimes_of(all_rows: Iterable[Row]) -> list[str]:
    """Return the runtimes in which any of the rows has a cell, in the order they are shown."""
    return in_order(name for row in all_rows for name in row.runtimes)


def filter_rows(all_rows: Sequence[Row], expression: str) -> list[Row]:
    """Return the rows for which `expression` holds, such as "method=sgad,seed=0".

    Raises:
        ConfigError: it is not KEY=VALUE.
        UnknownNameError: it names an unknown key; the nearest are given.
    """
    wanted = [_condition(part) for part in expression.split(",")]
    texts = ((row, flat(row)) for row in all_rows)
    return [row for row, of in texts if all(_text(of[key]) == want for key, want in wanted)]


def _condition(part: str) -> tuple[str, str]:
    key, equals, value = (piece.strip() for piece in part.partition("="))
    if not equals:
        raise ConfigError(
            f"The filter '{part}' is not KEY=VALUE.", hint="Example: --filter method=sgad,seed=0"
        )
    if key not in (*KEYS, *EXTRAS):
        raise UnknownNameError("key", key, (*KEYS, *EXTRAS))
    return key, _text(value)


def _text(value: object) -> str:
    """Return `value` so that 1, "1" and "1.0" are the same, and None is the empty text."""
    text = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    try:
        return repr(float(text))
    except ValueError:
        return text
