"""Cells of several processes: their rounds counted alike, the worst of what was seen kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from bench.measure.environment import ContentionMeter
from bench.measure.latency.cells import MeasuredCell, cells_of
from bench.measure.latency.profiles import PROFILES
from bench.measure.latency.rounds import NetworkTiming, RoundSamples, Setup, again

SETUP = Setup(torch.zeros(4, 1, 8, 8), PROFILES["publish"], torch.device("cpu"), (1,))


def part(rounds: Sequence[Sequence[float]], **seen: Any) -> NetworkTiming:
    """What one process measured at batch 1; without rounds it has failed."""
    meter = ContentionMeter(2, wall_s=1.0, **seen)
    samples = [
        RoundSamples(np.array(times), np.arange(len(times), dtype=np.int32)[:, None])
        for times in rounds
    ]
    return NetworkTiming("" if rounds else "oom at batch size 1", samples, meter)


def cell_of(
    parts: Sequence[NetworkTiming], dense: dict[str, Sequence[NetworkTiming]], name: str = "own"
) -> MeasuredCell:
    """The cell of `name`, whose dense network is the first."""
    own, *_ = dense
    every = {**dense, name: parts}
    processes = [
        [{one: every[one][number] for one in every} | {again(one): part([]) for one in dense}]
        for number in range(len(parts))
    ]
    dense_of = {one: one for one in dense} | ({} if name in dense else {name: own})
    (cell,) = cells_of(processes, dense_of, runtime="eager", setup=SETUP)[name]
    return cell


def test_rounds_of_all_processes_are_paired_with_their_own_baseline() -> None:
    dense = [part([[4.0, 4.0], [4.0, 4.0]]), part([[8.0, 8.0]])]
    own = [part([[2.0, 2.0], [2.0, 2.0]]), part([[4.0, 4.0, 4.0]])]
    cell = cell_of(own, {"dense": dense})
    # 8 / 4 and 4 / 2: the slower process is slower for both, so every ratio is 2.
    assert cell.record.speedup == 2.0 and cell.record.verdict == "faster"
    assert cell.record.speedup_interval is not None
    assert (cell.record.speedup_interval.low, cell.record.speedup_interval.high) == (2.0, 2.0)
    assert (cell.record.n, cell.record.median_ms) == (7, 2.0)
    assert (cell.record.latency_ms, cell.record.dense_ms) == pytest.approx((20 / 7, 32 / 6))
    assert cell.arrays["round_n"].tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert cell.arrays["process_n"].tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_the_baseline_stays_the_baseline() -> None:
    dense = [part([[4.0]]), part([[8.0]])]
    cell = cell_of(dense, {"dense": dense}, "dense").record
    assert (cell.speedup, cell.verdict, cell.latency_ms) == (1.0, "baseline", 6.0)


def test_the_worst_of_what_was_seen_is_kept() -> None:
    parts = [
        part([[1.0]], cpu_s=0.99, busy_s=1.6),
        part([[1.0], [1.0]], cpu_s=0.90, busy_s=None),
    ]
    cell = cell_of(parts, {"dense": parts}, "dense").record
    values = cell.environment.values
    assert cell.contended and values["cpu_time_per_wall_time"] == 0.90
    assert values["others_cpu_share"] is None
    assert (values["latency_rounds"], values["latency_processes"]) == (3, 2)
    parts = [part([[1.0]], busy_s=1.6), part([[1.0]], busy_s=1.2)]
    values = cell_of(parts, {"dense": parts}, "dense").record.environment.values
    assert values["others_cpu_share"] == 0.8


@pytest.mark.parametrize("failing", [0, 1])
def test_what_failed_in_one_process_has_no_latency(failing: int) -> None:
    dense = [part([[4.0]]), part([[4.0]])]
    own = [part([[2.0]]), part([[2.0]])]
    own[failing] = part([])
    cell = cell_of(own, {"dense": dense})
    assert cell.record.latency_ms is None and cell.record.reason == "oom at batch size 1"
    assert cell.record.n == len(cell.arrays["ms_n"]) == 0
    assert cell.record.speedup is None and cell.record.verdict is None


def test_without_a_baseline_there_is_a_time_and_no_ratio() -> None:
    dense = [part([[4.0]]), part([])]
    cell = cell_of([part([[2.0]]), part([[3.0]])], {"dense": dense}).record
    assert cell.latency_ms == 2.5
    assert cell.speedup is None and cell.speedup_interval is None and cell.dense_ms is None


def test_ratios_to_other_dense_networks_stand_beside_the_own_one() -> None:
    own = [part([[2.0, 2.0]]), part([[3.0]])]
    dense: dict[str, Sequence[NetworkTiming]] = {
        "resnet32-A": [part([[4.0, 4.0]]), part([[6.0]])],
        "resnet20-A": [part([[3.0, 3.0]]), part([[4.5]])],
        "failed": [part([[3.0, 3.0]]), part([])],
    }
    cell = cell_of(own, dense).record
    assert cell.speedup == 2.0 and set(cell.others) == {"resnet20-A"}
    assert (cell.others["resnet20-A"].speedup, cell.others["resnet20-A"].dense_ms) == (1.5, 3.5)
