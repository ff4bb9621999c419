"""Latency end to end: what skips is faster, what cannot be timed says why, the rest goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from deciding_nets import disagreeing_net, images, masked_only_net, skipping_net, small_backbone
from torch import Tensor

from bench.measure.latency.cells import MeasuredCell, measure_latency
from bench.measure.latency.profiles import Profile
from bench.measure.latency.rounds import NetworkToTime, Setup
from bench.measure.latency.statistics import expected_ms
from bench.networks.gated import GatedResNet
from bench.networks.trunk import Backbone
from bench.networks.unit import DynamicNet, Output
from bench.runtimes.contract import Run, Runtime
from bench.runtimes.eager import Eager

TINY = Profile(
    "tiny", round_s=0.02, max_time_s=0.1, warmup_calls=2, warmup_s=0.0, coverage_images=16
)
# More calls and rounds, so that the medians hold on a machine that is shared meanwhile.
STEADY = dataclasses.replace(TINY, name="steady", rounds=9, round_calls=9)
DENSE = "dense"


def measure(
    subjects: Mapping[str, DynamicNet],
    backbone: Backbone,
    x_nchw: Tensor,
    *,
    profile: Profile = TINY,
    batch_sizes: tuple[int, ...] = (1, 32),
    runtime: Runtime | None = None,
    told: list[float] | None = None,
    **more: int,
) -> dict[str, list[MeasuredCell]]:
    networks = {DENSE: GatedResNet(backbone), **subjects}
    return measure_latency(
        {name: NetworkToTime(net, DENSE) for name, net in networks.items()},
        runtime or Eager(),
        Setup(x_nchw, profile, torch.device("cpu"), batch_sizes, **more),
        progress=([] if told is None else told).append,
    )


def test_a_network_that_skips_four_fifths_of_its_blocks_is_faster_than_the_dense_one() -> None:
    backbone = small_backbone("resnet32", side=16)
    light = skipping_net(backbone, [b for b in range(15) if b % 5 != 0])
    cells = measure(
        {"light": light}, backbone, images(256, side=16), batch_sizes=(1, 8), profile=STEADY
    )
    for dense, cell in zip(cells[DENSE], cells["light"], strict=True):
        record = cell.record
        # On a machine that is shared meanwhile the interval may be too wide for a verdict.
        assert record.verdict in ("faster", "uncertain") and record.speedup is not None
        assert record.speedup > 1.3 and record.speedup_interval is not None
        assert record.speedup_interval.low <= record.speedup <= record.speedup_interval.high
        assert record.dense_ms == dense.record.latency_ms
        assert record.latency_ms is not None and record.latency_ms < record.dense_ms  # type: ignore[operator]
        assert dense.record.verdict == "baseline" and dense.record.speedup == 1.0
        assert record.reason == ""


def test_every_timed_call_is_kept_with_its_round_and_its_images() -> None:
    backbone = small_backbone()
    cells = measure({"one": skipping_net(backbone, [1])}, backbone, images(256))
    for stream_or_batch, size in ((0, 1), (1, 32)):
        ours, dense = cells["one"][stream_or_batch], cells[DENSE][stream_or_batch]
        record, raw = ours.record, ours.arrays
        assert record.scenario == ("stream" if size == 1 else "batch")
        assert (record.batch_size, record.profile, record.device) == (size, "tiny", "cpu")
        assert record.n == len(raw["ms_n"]) == len(raw["round_n"]) == len(raw["image_nb"])
        assert record.median_ms == np.median(raw["ms_n"]) and (raw["ms_n"] > 0).all()
        assert record.latency_ms == expected_ms(raw["ms_n"])
        assert raw["image_nb"].shape[1] == size and raw["image_nb"].max() < 256
        assert set(raw["round_n"]) == set(range(record.environment.values["latency_rounds"]))
        for number in range(TINY.rounds):
            mine = raw["image_nb"][raw["round_n"] == number]
            theirs = dense.arrays["image_nb"][dense.arrays["round_n"] == number]
            both = min(len(mine), len(theirs))
            assert both >= TINY.round_calls and (mine[:both] == theirs[:both]).all()
        assert raw.keys() == {"round_n", "image_nb", "ms_n", "process_n"}
        assert not raw["process_n"].any()


def test_the_order_of_images_differs_between_rounds_and_repeats_with_the_seed() -> None:
    backbone = small_backbone()
    orders = []
    for seed in (1, 1, 2):
        raw = measure({}, backbone, images(256), batch_sizes=(1,), seed=seed)[DENSE][0].arrays
        orders.append([tuple(raw["image_nb"][raw["round_n"] == r][:2, 0]) for r in range(5)])
    assert orders[0] == orders[1] != orders[2]
    assert len(set(orders[0])) > 1


def test_what_cannot_be_timed_says_why_and_the_rest_is_measured() -> None:
    backbone = small_backbone()
    good = skipping_net(backbone, [1])
    subjects = {"masked": masked_only_net(), "wrong": disagreeing_net(), "good": good}
    cells = measure(subjects, backbone, images(256))
    for name, reason in (("masked", "positions cannot be skipped"), ("wrong", "up to 5.0e-01")):
        for cell in cells[name]:
            assert cell.record.latency_ms is None and reason in cell.record.reason
            assert cell.record.n == len(cell.arrays["ms_n"]) == 0
            assert cell.record.verdict is None and cell.record.speedup is None
    assert all(cell.record.latency_ms is not None for cell in cells["good"] + cells[DENSE])


def test_several_dense_networks_are_timed_in_the_same_rounds() -> None:
    large, small = (small_backbone(name, side=16) for name in ("resnet32", "resnet8"))
    networks = {
        "light": NetworkToTime(skipping_net(large, range(1, 15)), "large"),
        "large": NetworkToTime(GatedResNet(large), "large"),
        "small": NetworkToTime(GatedResNet(small), "small"),
    }
    setup = Setup(images(256, side=16), STEADY, torch.device("cpu"), (1,))
    cells = measure_latency(networks, Eager(), setup)
    (light,), (dense,), (other,) = (cells[name] for name in ("light", "large", "small"))
    assert other.record.verdict == dense.record.verdict == "baseline"
    assert set(light.record.others) == {"small"} and set(other.record.others) == {"large"}
    beside = other.record.others["large"]
    assert beside.speedup > 2 and beside.dense_ms == light.record.dense_ms
    assert light.record.others["small"].dense_ms == other.record.latency_ms
    rounds = [
        cell.arrays["image_nb"][cell.arrays["round_n"] == 0, 0] for cell in (light, dense, other)
    ]
    shortest = min(map(len, rounds))
    assert all((r[:shortest] == rounds[0][:shortest]).all() for r in rounds)


class OutOfMemoryAbove(GatedResNet):
    """Fails like a full device for the batch size of the `batch` scenario only."""

    def execute(self, x_nchw: Tensor) -> Output:
        if len(x_nchw) == 32:
            raise torch.OutOfMemoryError("tried to allocate too much")
        return super().execute(x_nchw)


class BreaksLater(GatedResNet):
    """Fails with an error of its own after many calls."""

    calls = 0

    def execute(self, x_nchw: Tensor) -> Output:
        self.calls += 1
        if self.calls > 14:
            raise KeyError("lost a thing")
        return super().execute(x_nchw)


def test_a_failure_at_one_batch_size_leaves_the_other_cells() -> None:
    backbone = small_backbone()
    policy = skipping_net(backbone, [1]).policy
    subjects = {"big": OutOfMemoryAbove(backbone, policy), "later": BreaksLater(backbone, policy)}
    cells = measure(subjects, backbone, images(256))
    assert cells["big"][0].record.latency_ms is not None
    assert cells["big"][1].record.reason == "oom at batch size 32"
    assert "failed at batch size 1: KeyError: 'lost a thing'" in cells["later"][0].record.reason
    assert all(cell.record.latency_ms is not None for cell in cells[DENSE])


def test_the_number_of_threads_is_recorded_and_restored_and_modes_are_kept() -> None:
    backbone = small_backbone()
    net = skipping_net(backbone, [1]).train()
    told: list[float] = []
    cells = measure(
        {"one": net},
        backbone,
        images(256),
        batch_sizes=(1,),
        threads=2,
        told=told,
    )
    record = cells["one"][0].record
    assert record.threads == record.environment.values["threads"] == 2
    assert torch.get_num_threads() == 1 and all(m.training for m in net.modules())
    assert len(told) > TINY.rounds and all(0 <= share <= 1 for share in told)


class OnlyStatic(Runtime):
    """Runs what decides nothing, and refuses all else."""

    name, summary = "only_static", "for tests"

    def refuses(self, net: DynamicNet, device: torch.device, threads: int) -> str | None:
        return "it decides" if any(unit.gated for unit in net.units()) else None

    def prepare(self, net: DynamicNet, example_nchw: Tensor) -> Run:
        return Eager().prepare(net, example_nchw)


def test_both_sides_of_a_ratio_run_in_the_same_runtime_and_a_refusal_is_a_reason() -> None:
    backbone = small_backbone()
    dynamic, static = skipping_net(backbone, [1]), GatedResNet(backbone)
    static.remove_blocks(frozenset({"block1"}))
    subjects = {"dynamic": dynamic, "static": static}
    cells = measure(subjects, backbone, images(256), batch_sizes=(1,), runtime=OnlyStatic())
    assert {cell.record.runtime for found in cells.values() for cell in found} == {"only_static"}
    refused, dense_record = cells["dynamic"][0].record, cells[DENSE][0].record
    assert refused.latency_ms is None and refused.reason == "it decides"
    assert dense_record.margin is not None and dense_record.margin >= 0
    for cell, dense in zip(cells["static"], cells[DENSE], strict=True):
        assert cell.record.dense_ms == dense.record.latency_ms


def test_few_images_give_the_cells_that_they_can_and_a_reason_for_the_others() -> None:
    alone, batch = measure({}, small_backbone(), images(20))[DENSE]
    assert alone.record.latency_ms is not None
    assert batch.record.latency_ms is None
    assert batch.record.reason == "batches of 32 need as many images; there are 20"
