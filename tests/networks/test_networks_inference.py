"""The copy that is timed: the same function as the network it was made from, in fewer kernels."""

from __future__ import annotations

import copy
from typing import Any

import exit_nets
import halting_nets
import pytest
import torch
import torch.nn.functional as F
from gated_nets import BLOCKS, MERGES, images, per_unit_net, seasoned
from kernel_ways import Way, allow, every_way
from torch import nn
from torch.profiler import ProfilerActivity, profile

from bench.measure.equivalence import graph_agrees
from bench.networks import kernels
from bench.networks.inference import fast_copy, graph_of
from bench.networks.kernels import FusedBlock, FusedStem
from bench.networks.native_parts import NativeBlock
from bench.networks.resnet import Block
from bench.networks.unit import DynamicNet


def same_function(net: DynamicNet, x: torch.Tensor, *, threshold: float = 1e-4) -> DynamicNet:
    fast = fast_copy(net, x[:2])
    expected = net(x)
    for output in (fast(x), fast.execute(x)):
        torch.testing.assert_close(output.logits, expected.logits, atol=threshold, rtol=0)
        assert torch.equal(output.executed, expected.executed)
    alone = fast.execute(x[3:4])
    torch.testing.assert_close(alone.logits, expected.logits[3:4], atol=threshold, rtol=0)
    return fast


@every_way
@pytest.mark.parametrize("merge", sorted(MERGES))
@pytest.mark.parametrize("shortcut", ["A", "B"])
@torch.no_grad()
def test_a_gated_network_stays_the_same_function(
    way: Way, merge: str, shortcut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(way, monkeypatch)
    net, x = per_unit_net(merge, shortcut), images(33, seed=9)
    fast = same_function(net, x)
    kinds = {"operators": NativeBlock, "onednn": FusedBlock, "plain": Block}
    assert [type(block) for block in fast.blocks] == [kinds[way]] * BLOCKS


@every_way
@torch.no_grad()
def test_a_network_with_exits_stays_the_same_function(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(way, monkeypatch)
    same_function(exit_nets.calibrated("entropy", "convolution"), images(33, seed=9))


@every_way
@torch.no_grad()
def test_a_network_that_halts_by_image_stays_the_same_function(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(way, monkeypatch)
    same_function(halting_nets.seasoned("image"), halting_nets.images(12), threshold=1e-3)


@torch.no_grad()
def test_removed_blocks_stay_removed_and_the_original_is_left_alone() -> None:
    net, x = copy.deepcopy(seasoned()), images(4)
    net.remove_blocks(frozenset({"block2"}))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fast = fast_copy(net, x)
    torch.testing.assert_close(fast.execute(x).logits, net(x).logits, atol=1e-4, rtol=0)
    assert type(fast.blocks[2]) is type(net.blocks[2])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert any(isinstance(module, nn.BatchNorm2d) for module in net.modules())


@torch.no_grad()
def test_a_fused_trunk_calls_one_kernel_per_convolution_and_no_relu_or_sum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allow("onednn", monkeypatch)
    net, x = seasoned(), images(4)
    trunk = fast_copy(net, x).trunk
    assert isinstance(trunk.stem, FusedStem)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        trunk(x)
    calls = {event.key: event.count for event in seen.key_averages()}
    assert not {"aten::relu", "aten::relu_", "aten::add", "aten::batch_norm"} & calls.keys()
    pointwise = sum(count for key, count in calls.items() if "_convolution_pointwise" in key)
    assert pointwise == 1 + 2 * BLOCKS


def graph_equals_network(net: DynamicNet, x: torch.Tensor) -> None:
    graph = graph_of(net, x[:2])
    assert graph is not None and graph_agrees(graph, fast_copy(net, x[:2]), x)
    other = fast_copy(net, x[:2])
    other.trunk.head.linear.bias.data[0] += 1  # type: ignore[union-attr]
    assert not graph_agrees(graph, other, x)


@every_way
@pytest.mark.parametrize("merge", sorted(MERGES))
def test_a_gated_network_as_one_graph_decides_image_by_image(
    way: Way, merge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(way, monkeypatch)
    net, x = per_unit_net(merge, "B"), images(12, seed=9)
    with torch.no_grad():
        assert len({tuple(row) for row in net(x).executed.tolist()}) > 3
    graph_equals_network(net, x)


@every_way
def test_a_network_with_exits_as_one_graph_leaves_image_by_image(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(way, monkeypatch)
    net, x = exit_nets.calibrated("entropy"), images(24, seed=9)
    with torch.no_grad():
        assert len(set(net(x).terms["way_n"].tolist())) == 3
    graph_equals_network(net, x)


@every_way
@pytest.mark.parametrize("dead", [frozenset[str](), frozenset({"block2", "block4"})])
def test_a_network_that_halts_as_one_graph_halts_image_by_image(
    way: Way, dead: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(way, monkeypatch)
    net = halting_nets.seasoned("image").inference_net(dead_blocks=dead)
    x = halting_nets.images(24)
    with torch.no_grad():
        assert len({tuple(row) for row in net(x).executed.tolist()}) > 1
    graph_equals_network(net, x)


@every_way
@pytest.mark.parametrize("dead", [frozenset[str](), frozenset({"block2", "block4"})])
def test_a_network_whose_positions_halt_as_one_graph_halts_position_by_position(
    way: Way, dead: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(way, monkeypatch)
    net = halting_nets.seasoned("position").inference_net(dead_blocks=dead)
    x = halting_nets.images(24)
    with torch.no_grad():
        assert len({tuple(row) for row in net(x).executed.tolist()}) > 10
    graph_equals_network(net, x)


@every_way
@pytest.mark.parametrize(("bias", "mostly"), [(-60.0, 0.75), (0.0, 0.0), (0.0, 1.0), (60.0, 0.75)])
def test_all_positions_may_be_active_or_none_and_blocks_may_run_everywhere(
    way: Way, bias: float, mostly: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(way, monkeypatch)
    monkeypatch.setattr("bench.networks.branching_positions._MOSTLY", mostly)
    net = halting_nets.with_bias(halting_nets.seasoned("position"), bias)
    x = halting_nets.images(8)
    blocks = [column for column, unit in enumerate(net.units()) if unit.gated]
    with torch.no_grad():
        shares = net(x).executed[:, blocks]
    if bias:
        assert set(shares.flatten().tolist()) == {1.0 if bias < 0 else 0.0}
    graph_equals_network(net, x)


def test_features_of_another_kind_have_no_graph() -> None:
    net = copy.deepcopy(halting_nets.seasoned("position"))
    score = net.policy.scores["0"]
    score.local.features = nn.Sigmoid()  # type: ignore[union-attr, assignment]
    with pytest.raises(AssertionError, match="another kind"):
        graph_of(net, halting_nets.images(2))


@torch.no_grad()
def test_kernels_of_cudnn_get_their_arguments_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def relu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *how: Any) -> torch.Tensor:
        return F.conv2d(x, weight, bias, *how).relu()

    def add_relu(
        x: torch.Tensor,
        weight: torch.Tensor,
        z: torch.Tensor,
        alpha: float,
        bias: torch.Tensor,
        *how: Any,
    ) -> torch.Tensor:
        return (F.conv2d(x, weight, bias, *how) + alpha * z).relu()

    allow("plain", monkeypatch)
    monkeypatch.setattr(kernels, "cudnn_fuses", lambda tensor: True)
    library = torch.library.Library("aten", "IMPL")
    try:
        library.impl("cudnn_convolution_relu", relu, "CPU")
        library.impl("cudnn_convolution_add_relu", add_relu, "CPU")
        fast = same_function(per_unit_net("residual", "B"), images(33, seed=9))
    finally:
        library._destroy()  # type: ignore[no-untyped-call]
    assert sum(isinstance(module, FusedBlock) for module in fast.modules()) == BLOCKS
