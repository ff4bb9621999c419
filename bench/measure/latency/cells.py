"""From the samples of a network to a cell of the record, beside the dense networks.

Also puts the cells of several processes together. Owns no clock; the numbers are statistics.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.measure.latency.rounds import Index, NetworkTiming
from bench.measure.latency.statistics import (
    Ms,
    Speedup,
    expected_ms,
    has_converged,
    interquartile_ms,
    margin_of,
    mean_interval,
    paired_speedup,
    tail_ms,
    verdict_of,
)
from bench.records.record import Environment, LatencyCell, OtherDense

Count = npt.NDArray[np.int32]
_NO_PASS = "not measured with this profile"
_WORST: dict[str, Any] = {
    "cpu_time_per_wall_time": min,
    "others_cpu_share": max,
    "steal_share": max,
    "load_average_1min": max,
    "latency_rounds": sum,
}
"""How numbers that each process has for itself become one."""

_SHARED = {
    *("scenario", "batch_size", "profile", "device", "threads", "runtime"),
    *("memory_reason", "energy_reason"),
}
"""Fields of a cell that are the same in each process."""


@dataclass(frozen=True, slots=True, eq=False)
class RawLatency:
    """Every timed call of a cell: its round, the images it saw, its milliseconds per image.

    `image_nb` are positions among the images given to `measure_latency`; `process_n` tells the
    processes apart where several measured.
    """

    round_n: Count
    image_nb: Index
    ms_n: Ms
    process_n: Count

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays by name, for an .npz file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def rounds(self) -> list[Ms]:
        """Return the milliseconds of each round, in order."""
        return [self.ms_n[self.round_n == number] for number in np.unique(self.round_n)]

    def process_of_rounds(self) -> list[int]:
        """Return the process of each round, in the same order."""
        first_n = np.unique(self.round_n, return_index=True)[1]
        return [int(process) for process in self.process_n[first_n]]


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredCell:
    """A cell for the record, its raw samples, and the dense network of its speed-up, by name."""

    record: LatencyCell
    raw: RawLatency
    dense: str


def cell_of(
    timing: NetworkTiming,
    baselines: Mapping[str, NetworkTiming],
    *,
    dense: str,
    again: NetworkTiming,
) -> MeasuredCell:
    """Return the cell of a network that has been measured or has failed.

    `baselines` are the dense networks by name, `dense` the name of its own, `again` the second
    timing of that one.
    """
    setup, contention = timing.setup, timing.meter.contention
    values = setup.environment.values | {
        "latency_images": len(setup.images_nchw),
        "latency_rounds": len(timing.rounds),
        **contention.values(),
    }
    raw = _raw(timing)
    raws = {name: raw if other is timing else _raw(other) for name, other in baselines.items()}
    twice = _raw(again)
    both = len(raws[dense].ms_n) and len(twice.ms_n)
    margin = margin_of(_speedup(raws[dense], twice)) if both else None
    record = LatencyCell(
        scenario="stream" if timing.batch_size == 1 else "batch",
        batch_size=timing.batch_size,
        profile=setup.profile.name,
        device=str(setup.device),
        threads=setup.threads,
        runtime=timing.prepared.runtime,
        contended=bool(timing.rounds) and contention.contended(threads=setup.threads),
        reason=timing.failure,
        memory_reason=_NO_PASS,
        energy_reason=_NO_PASS,
        environment=Environment(values=values),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        **_numbers(raw, raws, dense=dense, margin=margin),
    )
    return MeasuredCell(record, raw, dense)


def merged(
    parts: Sequence[MeasuredCell], baselines: Mapping[str, Sequence[MeasuredCell]]
) -> MeasuredCell:
    """Return one cell of what several processes measured, beside the dense networks of the same.

    All rounds count alike; the mark of contention and what was seen of it are the worst of all. A
    cell that failed in one process has no latency.
    """
    raw = _joined(parts)
    raws = {
        name: raw if parts[0] is others[0] else _joined(others)
        for name, others in baselines.items()
    }
    failures = [part.record.reason for part in parts if part.record.latency_ms is None]
    values = dict(parts[0].record.environment.values)
    for key in _WORST.keys() & values:
        seen = [part.record.environment.values[key] for part in parts]
        values[key] = None if None in seen else _WORST[key](seen)
    margins = [part.record.margin for part in parts if part.record.margin is not None]
    record = LatencyCell(
        **parts[0].record.model_dump(include=_SHARED),
        contended=any(part.record.contended for part in parts),
        reason=failures[0] if failures else "",
        environment=Environment(values=values | {"latency_processes": len(parts)}),
        measured_at=max(part.record.measured_at for part in parts),
        **_numbers(raw, raws, dense=parts[0].dense, margin=max(margins, default=None)),
    )
    return MeasuredCell(record, raw, parts[0].dense)


def _numbers(
    raw: RawLatency, baselines: Mapping[str, RawLatency], *, dense: str, margin: float | None
) -> dict[str, Any]:
    """Return what samples say, by the fields of a cell, as far as there are any."""
    ms_n, baseline = raw.ms_n, baselines[dense]
    if not len(ms_n):
        return {"n": 0, "latency_ms": None}
    numbers: dict[str, Any] = {
        "n": len(ms_n),
        "latency_ms": expected_ms(ms_n),
        "median_ms": float(np.median(ms_n)),
        "mean_ms": float(ms_n.mean()),
        "iqr_ms": interquartile_ms(ms_n),
        "p90_ms": tail_ms(ms_n, 0.90),
        "p99_ms": tail_ms(ms_n, 0.99),
        "interval_ms": mean_interval(ms_n),
        "converged": has_converged(ms_n),
        "margin": margin,
        "others": {
            name: OtherDense(**_beside(other, _speedup(other, raw)))
            for name, other in baselines.items()
            if name != dense and len(other.ms_n)
        },
    }
    if raw is baseline:
        return numbers | {
            "dense_ms": numbers["latency_ms"],
            "speedup": 1.0,
            "verdict": "baseline",
        }
    if len(baseline.ms_n):
        speedup = _speedup(baseline, raw)
        numbers |= _beside(baseline, speedup)
        numbers["verdict"] = verdict_of(speedup, margin=margin or 0.0)
    return numbers


def _beside(dense: RawLatency, speedup: Speedup) -> dict[str, Any]:
    """Return the time of a dense network and the speed-up over it, by the fields of a record."""
    return {
        "dense_ms": expected_ms(dense.ms_n),
        "speedup": speedup.ratio,
        "speedup_interval": speedup.interval,
    }


def _speedup(baseline: RawLatency, own: RawLatency) -> Speedup:
    # Of each round, the calls both made: the slower network has seen fewer of the same images.
    pairs: list[tuple[Ms, Ms]] = []
    for base, mine in zip(baseline.rounds(), own.rounds(), strict=False):
        both = min(len(base), len(mine))
        pairs.append((base[:both], mine[:both]))
    return paired_speedup(pairs, processes=own.process_of_rounds()[: len(pairs)])


def _raw(timing: NetworkTiming) -> RawLatency:
    lengths = [len(samples.ms_n) for samples in timing.rounds]
    images = [samples.image_nb for samples in timing.rounds]
    return RawLatency(
        np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        np.concatenate(images or [np.empty((0, timing.batch_size), dtype=np.int32)]),
        timing.ms_n,
        np.zeros(sum(lengths), dtype=np.int32),
    )


def _joined(parts: Sequence[MeasuredCell]) -> RawLatency:
    """Put the calls of processes 0, 1, ... one after the other, rounds numbered on.

    None at all where a process has none: its rounds would be missing beside the others'.
    """
    raws = [part.raw for part in parts]
    if not all(len(raw.ms_n) for raw in raws):
        raws = [RawLatency(*(array[:0] for array in raws[0].arrays().values()))]
    starts = np.cumsum([0, *(len(raw.rounds()) for raw in raws)])
    rounds = [raw.round_n + start for raw, start in zip(raws, starts[:-1], strict=True)]
    processes = [np.full(len(raw.ms_n), number) for number, raw in enumerate(raws)]
    return RawLatency(
        np.concatenate(rounds).astype(np.int32),
        np.concatenate([raw.image_nb for raw in raws]),
        np.concatenate([raw.ms_n for raw in raws]),
        np.concatenate(processes).astype(np.int32),
    )
