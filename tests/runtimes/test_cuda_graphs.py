"""Stretches and the choices between them, replayed by direct calls, and on a GPU as graphs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from exit_nets import calibrated
from gated_nets import backbone, images, lstm_gates, per_unit_net, season, seasoned
from halting_nets import images as halting_images
from halting_nets import seasoned as halting_net
from position_nets import images_for, position_net
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.errors import Unsupported
from bench.measure.equivalence import check_execution
from bench.networks.gated import GatedResNet
from bench.networks.unit import Branch, DynamicNet
from bench.runtimes.cuda_graphs import CudaGraphs, Replay, replayed
from bench.runtimes.eager import folded_copy

NETS = {
    "dense": (lambda: seasoned("residual", "B"), images),
    "gated": (lambda: per_unit_net("output", "B"), images),
    "lstm": (lambda: season(GatedResNet(backbone(), lstm_gates(backbone()))), images),
    "exits": (lambda: calibrated("probability"), images),
    "images halt": (lambda: halting_net("image"), halting_images),
    "positions halt": (lambda: halting_net("position"), halting_images),
}
every_net = pytest.mark.parametrize("name", NETS)


MADE: list[Any] = []


@contextmanager
def calls_noted() -> Iterator[Replay]:
    """Record a stretch as the operators that ran, to be called once more on the same memory."""
    calls: list[tuple[Any, Any, Any, Any]] = []
    MADE.append(calls)

    def replay() -> None:
        for func, args, kwargs, out in calls:
            pairs = zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True)
            for tensor, again in pairs:
                if isinstance(tensor, Tensor) and tensor is not again:
                    tensor.copy_(again)

    with _Noting(calls):
        yield replay


class _Noting(TorchDispatchMode):
    def __init__(self, calls: list[tuple[Any, Any, Any, Any]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (
            torch.Tag.data_dependent_output in func.tags
            or torch.Tag.dynamic_output_shape in func.tags
        ):
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        self.calls.append((func, args, kwargs or {}, out))
        return out


@every_net
def test_stretches_replayed_one_after_the_other_are_the_network(name: str) -> None:
    make, draw = NETS[name]
    net, x = make(), draw(64)
    MADE.clear()
    run = replayed(folded_copy(net, x[:2]), x[:2], calls_noted)
    stretches = len(MADE)
    assert check_execution(net, x, run=run, atol=1e-3)
    if name == "dense":
        assert stretches == 1 and len({len(x), 8, 1}) == len(MADE)  # one for each batch size
    else:
        assert len(MADE) == stretches > 3
    assert run(x[:0])[0].shape == (0, 10)


def test_what_a_graph_cannot_hold_is_a_reason() -> None:
    class Reading(GatedResNet):
        def run(self, x_nchw: Tensor, branch: Branch) -> Any:
            assert x_nchw.sum().item() != 0
            return super().run(x_nchw, branch)

    net = Reading(backbone()).eval()
    with pytest.raises(Unsupported, match="cannot be recorded: operation not permitted"):
        replayed(net, images(2), calls_noted)


def test_positions_are_no_stretch() -> None:
    net = position_net()
    with pytest.raises(Unsupported, match="at some positions"):
        replayed(net, images_for(net, 2), calls_noted)


def test_without_a_gpu_it_is_refused_in_words() -> None:
    refused = CudaGraphs().refuses(seasoned(), torch.device("cpu"), 1)
    assert refused == "CUDA graphs need a GPU, not cpu; they are not yet proven on one"
    assert "not yet proven on a GPU" in CudaGraphs.summary


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_net
def test_graphs_on_a_gpu_are_the_network(name: str) -> None:
    make, draw = NETS[name]
    net: DynamicNet = make().cuda()
    x = draw(256).cuda()
    assert CudaGraphs().refuses(net, x.device, 1) is None
    assert check_execution(net, x, run=CudaGraphs().prepare(net, x[:2]), atol=1e-3)
