"""From the samples of a lane to a cell of the record, beside the baseline's lane.

Owns no clock; the statistics are speed.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from bench.measure.lanes import Lane
from bench.measure.speed import (
    Ms,
    Speedup,
    has_converged,
    interquartile_ms,
    median_interval,
    paired_speedup,
    tail_ms,
)
from bench.measure.timing import Index, RoundSamples
from bench.records.record import Environment, LatencyCell


@dataclass(frozen=True, slots=True, eq=False)
class RawLatency:
    """Every timed call of a cell: its round, the images it saw, its milliseconds per image.

    `image_nb` are positions among the images given to `measure_latency`.
    """

    round_n: npt.NDArray[np.int32]
    image_nb: Index
    ms_n: Ms

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the arrays by name, for an .npz file."""
        return {"round_n": self.round_n, "image_nb": self.image_nb, "ms_n": self.ms_n}


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredCell:
    """A cell for the record, its raw samples, and the sentence that proves the skipping path."""

    record: LatencyCell
    raw: RawLatency
    equivalence: str


def cell_of(lane: Lane, *, baseline: Lane) -> MeasuredCell:
    """Return the cell of a lane that has been measured or has failed."""
    setup = lane.setup
    values = setup.environment.values | {
        "latency_images": len(setup.images_nchw),
        "latency_rounds": len(lane.rounds),
        **lane.meter.sharing.values(),
    }
    ms_n = lane.ms_n
    record = LatencyCell(
        scenario="stream" if lane.batch_size == 1 else "batch",
        batch_size=lane.batch_size,
        profile=setup.profile.name,
        device=str(setup.device),
        threads=setup.threads,
        n=len(ms_n),
        latency_ms=None,
        reason=lane.failure,
        environment=Environment(values=values),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if len(ms_n):
        record = record.model_copy(update=_numbers(lane, baseline=baseline))
    return MeasuredCell(record, _raw(lane), lane.proof.sentence)


def _numbers(lane: Lane, *, baseline: Lane) -> dict[str, object]:
    ms_n = lane.ms_n
    numbers: dict[str, object] = {
        "latency_ms": float(np.median(ms_n)),
        "mean_ms": float(ms_n.mean()),
        "iqr_ms": interquartile_ms(ms_n),
        "p90_ms": tail_ms(ms_n, 0.90),
        "p99_ms": tail_ms(ms_n, 0.99),
        "interval_ms": median_interval(ms_n),
        "converged": has_converged(ms_n),
        "contended": lane.meter.sharing.contended(threads=lane.setup.threads),
    }
    if baseline.rounds:
        numbers["dense_ms"] = float(np.median(baseline.ms_n))
    if lane is baseline:
        return numbers | {"speedup": 1.0, "verdict": "baseline"}
    if baseline.rounds:
        speedup = _speedup(baseline.rounds, lane.rounds)
        numbers |= {
            "speedup": speedup.ratio,
            "speedup_interval": speedup.interval,
            "verdict": speedup.verdict,
        }
    return numbers


def _speedup(baseline: Sequence[RoundSamples], own: Sequence[RoundSamples]) -> Speedup:
    # Of each round, the calls both made: the slower network has seen fewer of the same images.
    pairs: list[tuple[Ms, Ms]] = []
    for base, mine in zip(baseline, own, strict=False):
        both = min(len(base.ms_n), len(mine.ms_n))
        pairs.append((base.ms_n[:both], mine.ms_n[:both]))
    return paired_speedup(pairs)


def _raw(lane: Lane) -> RawLatency:
    lengths = [len(samples.ms_n) for samples in lane.rounds]
    images = [samples.image_nb for samples in lane.rounds]
    return RawLatency(
        np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        np.concatenate(images or [np.empty((0, lane.batch_size), dtype=np.int32)]),
        lane.ms_n,
    )
