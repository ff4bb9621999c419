"""Parts compiled by oneDNN: in a graph of one image every convolution is one of them."""

from typing import Any

import exit_nets
import gated_nets
import halting_nets
import pytest
import torch
from kernel_ways import allow
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from bench.networks.compiled import compiled
from bench.networks.gated import GatedResNet, block_columns
from bench.networks.inference import graph_of
from bench.networks.kernels import kernels_available
from bench.networks.unit import DynamicNet

jit: Any = torch.jit

pytestmark = pytest.mark.skipif(
    not (kernels_available(torch.zeros(1)) and hasattr(jit, "enable_onednn_fusion")),
    reason="this build of torch cannot compile with oneDNN",
)


@pytest.fixture(autouse=True)
def no_operators_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    allow("onednn", monkeypatch)


def calls_of(net: DynamicNet, x_nchw: Tensor) -> dict[str, int]:
    """Return how often the graph calls each operator for these images, one by one."""
    graph = graph_of(net, x_nchw[:2])
    assert graph is not None
    ones = x_nchw.split(1)
    with torch.inference_mode():
        for x in ones:
            graph(x)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            for x in ones:
                graph(x)
    return {event.key: event.count for event in seen.key_averages()}


def compiled_calls(calls: dict[str, int]) -> int:
    return sum(count for key, count in calls.items() if key.startswith("LlgaPartition"))


def convolutions(calls: dict[str, int]) -> set[str]:
    return {key for key in calls if "conv" in key}


def test_a_dense_network_calls_one_compiled_part_per_convolution() -> None:
    net = GatedResNet(gated_nets.seasoned().backbone).eval()
    calls = calls_of(net, gated_nets.images(3))
    assert not convolutions(calls) and not {"aten::relu", "aten::add"} & calls.keys()
    assert compiled_calls(calls) == 3 * (1 + 2 * len(net.blocks))


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("merge", sorted(gated_nets.MERGES))
def test_what_gates_skip_is_not_called_and_the_rest_is_compiled(merge: str, shortcut: str) -> None:
    net, x = gated_nets.per_unit_net(merge, shortcut), gated_nets.images(12, seed=9)
    with torch.no_grad():
        executed = net(x).executed
    borders = 0 if shortcut == "A" else len(net.backbone.stages) - 1
    ran = int(executed[:, block_columns(net.units())].sum())
    calls = calls_of(net, x)
    assert not convolutions(calls)
    assert compiled_calls(calls) == len(x) * (1 + borders) + 2 * ran


@pytest.mark.parametrize("kind", ["exits", "image", "position"])
def test_exits_and_halting_have_compiled_parts_too(kind: str) -> None:
    if kind == "exits":
        net, x = exit_nets.calibrated("entropy"), exit_nets.images(12)
    else:
        net, x = halting_nets.seasoned(kind), halting_nets.images(12)
    calls = calls_of(net, x)
    assert not convolutions(calls) and compiled_calls(calls) > len(x)


def test_compiling_leaves_what_is_compiled_elsewhere_alone() -> None:
    before = jit.onednn_fusion_enabled()
    conv = nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    x = torch.randn(1, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    call = compiled(conv, x)
    torch.testing.assert_close(call(x), conv(x))
    assert jit.onednn_fusion_enabled() == before


def test_another_shape_than_the_compiled_one_gives_what_it_should() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    call = compiled(conv, torch.zeros(1, 4, 8, 8).contiguous(memory_format=torch.channels_last))
    for shape in ((2, 4, 8, 8), (1, 4, 5, 7)):
        x = torch.randn(shape)
        torch.testing.assert_close(call(x), conv(x))
