"""From timed rounds, of one process or several, to cells of records beside the dense networks.

Owns no clock; the numbers are statistics.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.measure.environment import describe_environment
from bench.measure.latency.rounds import (
    NetworkTiming,
    NetworkToTime,
    Progress,
    RoundSamples,
    Setup,
    Timings,
    again,
    time_networks,
)
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
from bench.measure.modes import using_threads
from bench.records.record import Environment, LatencyCell, OtherDense
from bench.runtimes.contract import Runtime

_NO_PASS = "not measured with this profile"
Parts = Sequence[NetworkTiming]
"""One network at one batch size as each process measured it. All rounds count alike; one that
failed in a process has none."""


class MeasuredCell(NamedTuple):
    """A cell for the record, and every timed call.

    Of the arrays `round_n` is its round, `process_n` its process, `image_nb` the positions of the
    images it saw, `ms_n` its milliseconds per image.
    """

    record: LatencyCell
    arrays: Mapping[str, npt.NDArray[Any]]


def measure_latency(
    networks: Mapping[str, NetworkToTime],
    runtime: Runtime,
    setup: Setup,
    *,
    progress: Progress = lambda share: None,
) -> dict[str, list[MeasuredCell]]:
    """Time networks in this process; return the cells by name, in the order of batch sizes."""
    timed = time_networks(networks, runtime, setup, progress=progress)
    dense_of = {name: network.dense for name, network in networks.items()}
    return cells_of([timed], dense_of, runtime=runtime.name, setup=setup)


def cells_of(
    processes: Sequence[Sequence[Timings]],
    dense_of: Mapping[str, str],
    *,
    runtime: str,
    setup: Setup,
) -> dict[str, list[MeasuredCell]]:
    """Return the cells of all networks by name, in the order of batch sizes.

    `processes` holds what each process found at each batch size, `dense_of` the name of each
    network's dense one. A network that a process did not have is left out.
    """
    with using_threads(setup.threads):
        environment = describe_environment(setup.device)
    cells: dict[str, list[MeasuredCell]] = {}
    for size, found in zip(setup.batch_sizes, zip(*processes, strict=True), strict=True):
        known = [name for name in dense_of if all(name in one for one in found)]
        parts = {name: [one[name] for one in found] for name in known}
        dense = {name: parts[name] for name in dict.fromkeys(dense_of.values())}
        margins = {name: _margin(found, name) for name in dense}
        for name in known:
            own = dense_of[name]
            numbers = _numbers(parts[name], dense, own=own, margin=margins[own])
            record = _cell(parts[name], numbers, environment, runtime, size, setup)
            cells.setdefault(name, []).append(MeasuredCell(record, _arrays(parts[name], size)))
    return cells


def _margin(found: Sequence[Timings], dense: str) -> float | None:
    """Return the largest margin that a process saw of a dense network."""
    pairs = [(one[dense], one[again(dense)]) for one in found]
    margins = [margin_of(_speedup([a], [b])) for a, b in pairs if a.rounds and b.rounds]
    return max(margins, default=None)


def _cell(
    parts: Parts,
    numbers: Mapping[str, Any],
    environment: Environment,
    runtime: str,
    batch_size: int,
    setup: Setup,
) -> LatencyCell:
    meters = [part.meter for part in parts]
    values = environment.values | {
        "latency_images": len(setup.images_nchw),
        "latency_rounds": sum(len(part.rounds) for part in parts),
        "latency_processes": len(parts),
    }
    for key in meters[0].values():
        worst = min if key == "cpu_time_per_wall_time" else max
        seen = [meter.values()[key] for meter in meters]
        told = [value for value in seen if value is not None]
        values[key] = worst(told) if len(told) == len(seen) else None
    failures = [part.failure for part in parts if part.failure]
    return LatencyCell(
        scenario="stream" if batch_size == 1 else "batch",
        batch_size=batch_size,
        profile=setup.profile.name,
        device=str(setup.device),
        threads=setup.threads,
        runtime=runtime,
        contended=any(
            part.rounds and part.meter.contended(threads=setup.threads) for part in parts
        ),
        reason=failures[0] if failures else "",
        memory_reason=_NO_PASS,
        environment=Environment(values=values),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        **numbers,
    )


def _numbers(
    parts: Parts, dense: Mapping[str, Parts], *, own: str, margin: float | None
) -> dict[str, Any]:
    """Return what samples say, by the fields of a cell, as far as there are any."""
    ms_n = _ms(parts)
    if not len(ms_n):
        return {"n": 0, "latency_ms": None}
    speedups = {
        name: _speedup(other, parts)
        for name, other in dense.items()
        if other is not parts and len(_ms(other))
    }
    others = {
        name: OtherDense(
            dense_ms=expected_ms(_ms(dense[name])),
            speedup=speedup.ratio,
            speedup_interval=speedup.interval,
        )
        for name, speedup in speedups.items()
    }
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
        "others": {name: other for name, other in others.items() if name != own},
    }
    if parts is dense[own]:
        dense_ms = numbers["latency_ms"]
        return numbers | {"dense_ms": dense_ms, "speedup": 1.0, "verdict": "baseline"}
    if own in speedups:
        numbers |= dict(others[own])
        numbers["verdict"] = verdict_of(speedups[own], margin=margin or 0.0)
    return numbers


def _speedup(dense: Parts, own: Parts) -> Speedup:
    # Of each round, the calls both made: the slower network has seen fewer of the same images.
    pairs, processes = list[tuple[Ms, Ms]](), list[int]()
    for (process, base), (_, mine) in zip(_rounds(dense), _rounds(own), strict=False):
        both = min(len(base.ms_n), len(mine.ms_n))
        pairs.append((base.ms_n[:both], mine.ms_n[:both]))
        processes.append(process)
    return paired_speedup(pairs, processes=processes)


def _rounds(parts: Parts) -> list[tuple[int, RoundSamples]]:
    """Return all rounds, each with its process; none where a process has none."""
    if not all(part.rounds for part in parts):
        return []
    return [(number, samples) for number, part in enumerate(parts) for samples in part.rounds]


def _ms(parts: Parts) -> Ms:
    return np.concatenate([samples.ms_n for _, samples in _rounds(parts)] or [np.empty(0)])


def _arrays(parts: Parts, batch_size: int) -> dict[str, npt.NDArray[Any]]:
    rounds = _rounds(parts)
    lengths = [len(samples.ms_n) for _, samples in rounds]
    none = np.empty((0, batch_size), dtype=np.int32)
    processes = np.array([process for process, _ in rounds], dtype=np.int32)
    return {
        "round_n": np.repeat(np.arange(len(rounds), dtype=np.int32), lengths),
        "image_nb": np.concatenate([samples.image_nb for _, samples in rounds] or [none]),
        "ms_n": _ms(parts),
        "process_n": np.repeat(processes, lengths),
    }
