"""Cells of several processes: their rounds counted alike, the worst of what was seen kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bench.measure.latency.cells import MeasuredCell, RawLatency, merged
from bench.records.record import Environment, LatencyCell


def part(rounds: Sequence[Sequence[float]], **seen: object) -> MeasuredCell:
    """What one process measured at batch 1; without rounds it has failed."""
    lengths = [len(times) for times in rounds]
    ms_n = np.array([ms for times in rounds for ms in times])
    values = {
        "cpu_time_per_wall_time": seen.get("cpu", 0.99),
        "others_cpu_share": seen.get("others", 0.1),
        "steal_share": None,
        "load_average_1min": 1.0,
        "latency_rounds": len(rounds),
        "cpu": "synthetic",
    }
    cell = LatencyCell(
        scenario="stream",
        batch_size=1,
        profile="publish",
        device="cpu",
        threads=1,
        runtime="eager",
        n=len(ms_n),
        latency_ms=float(np.median(ms_n)) if len(ms_n) else None,
        speedup=99.0 if len(ms_n) else None,
        contended=bool(seen.get("contended")),
        reason="" if len(ms_n) else "oom at batch size 1",
        environment=Environment(values=values),
        measured_at=str(seen.get("at", "2026-11-01T10:00:00+00:00")),
    )
    raw = RawLatency(
        np.repeat(np.arange(len(rounds)), lengths).astype(np.int32),
        np.arange(len(ms_n), dtype=np.int32)[:, None],
        ms_n,
        np.zeros(len(ms_n), dtype=np.int32),
    )
    return MeasuredCell(cell, raw, "resnet32-A")


def test_rounds_of_all_processes_are_paired_with_their_own_baseline() -> None:
    dense = [part([[4.0, 4.0], [4.0, 4.0]]), part([[8.0, 8.0]])]
    own = [part([[2.0, 2.0], [2.0, 2.0]]), part([[4.0, 4.0, 4.0]])]
    cell = merged(own, {"resnet32-A": dense})
    # 8 / 4 and 4 / 2: the slower process is slower for both, so every ratio is 2.
    assert cell.record.speedup == 2.0 and cell.record.verdict == "faster"
    assert cell.record.speedup_interval is not None
    assert (cell.record.speedup_interval.low, cell.record.speedup_interval.high) == (2.0, 2.0)
    assert (cell.record.n, cell.record.median_ms) == (7, 2.0)
    assert (cell.record.latency_ms, cell.record.dense_ms) == pytest.approx((20 / 7, 32 / 6))
    assert cell.raw.round_n.tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert cell.raw.process_n.tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_the_baseline_stays_the_baseline() -> None:
    dense = [part([[4.0]]), part([[8.0]])]
    cell = merged(dense, {"resnet32-A": dense}).record
    assert (cell.speedup, cell.verdict, cell.latency_ms) == (1.0, "baseline", 6.0)


def test_the_worst_of_what_was_seen_is_kept() -> None:
    parts = [
        part([[1.0]], cpu=0.99, others=0.3, contended=True),
        part([[1.0], [1.0]], cpu=0.90, others=0.1, at="2026-11-01T10:05:00+00:00"),
    ]
    cell = merged(parts, {"resnet32-A": parts}).record
    values = cell.environment.values
    assert cell.contended and cell.measured_at == "2026-11-01T10:05:00+00:00"
    assert (values["cpu_time_per_wall_time"], values["others_cpu_share"]) == (0.90, 0.3)
    assert (values["latency_rounds"], values["latency_processes"]) == (3, 2)
    assert values["steal_share"] is None and values["cpu"] == "synthetic"


@pytest.mark.parametrize("failing", [0, 1])
def test_what_failed_in_one_process_has_no_latency(failing: int) -> None:
    dense = [part([[4.0]]), part([[4.0]])]
    own = [part([[2.0]]), part([[2.0]])]
    own[failing] = part([])
    cell = merged(own, {"resnet32-A": dense})
    assert cell.record.latency_ms is None and cell.record.reason == "oom at batch size 1"
    assert cell.record.n == len(cell.raw.ms_n) == 0
    assert cell.record.speedup is None and cell.record.verdict is None


def test_without_a_baseline_there_is_a_time_and_no_ratio() -> None:
    dense = {"resnet32-A": [part([[4.0]]), part([])]}
    cell = merged([part([[2.0]]), part([[3.0]])], dense).record
    assert cell.latency_ms == 2.5
    assert cell.speedup is None and cell.speedup_interval is None and cell.dense_ms is None


def test_ratios_to_other_dense_networks_stand_beside_the_own_one() -> None:
    own = [part([[2.0, 2.0]]), part([[3.0]])]
    dense = {
        "resnet32-A": [part([[4.0, 4.0]]), part([[6.0]])],
        "resnet20-A": [part([[3.0, 3.0]]), part([[4.5]])],
        "failed": [part([[3.0, 3.0]]), part([])],
    }
    cell = merged(own, dense).record
    assert cell.speedup == 2.0 and set(cell.others) == {"resnet20-A"}
    assert (cell.others["resnet20-A"].speedup, cell.others["resnet20-A"].dense_ms) == (1.5, 3.5)
