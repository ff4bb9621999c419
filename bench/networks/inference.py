"""The copy of a network that is timed: the same function, as fast as this machine can run it.

Owns what is done to every network alike, the dense one included: folded batch norms, fused kernels,
graphs, large batches in portions that fit the caches. Decides nothing and owns no clock.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bench.networks.branching import branching_exits, branching_gates
from bench.networks.branching_halting import branching_halting
from bench.networks.branching_positions import branching_positions
from bench.networks.compiled import use_compiled_parts
from bench.networks.exits import ExitResNet
from bench.networks.folding import fold_batch_norms
from bench.networks.gated import GatedResNet
from bench.networks.halting import HaltingResNet
from bench.networks.halting_policy import ImageHalting
from bench.networks.kernels import use_fused_kernels
from bench.networks.native_halting import use_native_stages
from bench.networks.native_parts import use_native_parts
from bench.networks.policy import EverythingRuns
from bench.networks.position_scores import fold_scores
from bench.networks.positions import PositionHalting
from bench.networks.replaying import Replayed, WholeForm, gated_form
from bench.networks.replaying_exits import ExitForm
from bench.networks.replaying_halting import HaltingForm
from bench.networks.tapes import CudaRecord, Record
from bench.networks.tracing import scripted, traced_with_constants
from bench.networks.unit import DynamicNet

Net = TypeVar("Net", bound=nn.Module)
Call = Callable[[Tensor], Tensor]
GraphCall = Callable[[Tensor], tuple[Tensor, Tensor]]


def fast_copy(net: Net, probe_nchw: Tensor) -> Net:
    """Return a copy in eval mode with batch norms folded away and fused kernels where torch has
    them. `probe_nchw` (N, C, H, W) are images like those to come. The copy is for inference only.
    """
    fast = _folded_copy(net, probe_nchw)
    if not _use_operators(fast, probe_nchw):
        use_fused_kernels(fast, probe_nchw)
    return fast


def graph_of(net: DynamicNet, probe_nchw: Tensor) -> GraphCall | None:
    """Return a network as a graph, giving logits and trace; None where there is no such form.

    On a CPU it is for one image (1, C, H, W), decisions are its branches, and between them nothing
    of Python is left. On CUDA it is for batches of any size (`replayed`).
    """
    if probe_nchw.device.type == "cuda":
        return replayed(fast_copy(net, probe_nchw), CudaRecord())
    return _graph_of_one(net, probe_nchw) if probe_nchw.device.type == "cpu" else None


def replayed(fast: DynamicNet, record: Record) -> GraphCall | None:
    """Return a fast copy as tapes made by `record`; None where positions halt. What it gives is
    overwritten by the next call."""
    if isinstance(fast, ExitResNet):
        return Replayed(lambda x_nchw: ExitForm(fast, x_nchw, record))
    if isinstance(fast, HaltingResNet) and isinstance(fast.policy, ImageHalting):
        return Replayed(lambda x_nchw: HaltingForm(fast, x_nchw, record))
    if not isinstance(fast, GatedResNet):
        return None
    if isinstance(fast.policy, EverythingRuns):
        return Replayed(lambda x_nchw: WholeForm(fast, x_nchw, record))
    return Replayed(lambda x_nchw: gated_form(fast, x_nchw, record))


def _graph_of_one(net: DynamicNet, probe_nchw: Tensor) -> GraphCall | None:
    record = _recording_of(net)
    if record is None:
        return None
    copied, one_nchw = _folded_copy(net, probe_nchw).requires_grad_(False), probe_nchw[:1]
    if not _use_operators(copied, probe_nchw):
        use_compiled_parts(copied, probe_nchw)
    graph: GraphCall = scripted(traced_with_constants(record(copied, one_nchw), one_nchw).eval())
    return graph


def _recording_of(net: DynamicNet) -> Callable[[Any, Tensor], nn.Module] | None:
    if isinstance(net, GatedResNet):
        return branching_gates
    if isinstance(net, ExitResNet):
        return branching_exits
    if isinstance(net, HaltingResNet) and isinstance(net.policy, ImageHalting):
        return branching_halting
    if isinstance(net, HaltingResNet) and isinstance(net.policy, PositionHalting):
        return branching_positions
    return None


def _folded_copy(net: Net, probe_nchw: Tensor) -> Net:
    copied = copy.deepcopy(net).eval()
    fold_batch_norms(copied, probe_nchw)
    fold_scores(copied)
    if isinstance(copied, GatedResNet):
        copied.policy = copied.policy.lean()
    return copied


def _use_operators(net: nn.Module, probe_nchw: Tensor) -> bool:
    found = use_native_parts(net, probe_nchw)
    if found:
        use_native_stages(net)
    return found


def in_portions(call: Call, size: int) -> Call:
    """Return the same call, made on at most `size` images at a time; results are joined."""

    def portioned(x_nchw: Tensor) -> Tensor:
        if len(x_nchw) <= size:
            return call(x_nchw)
        return torch.cat([call(part) for part in torch.split(x_nchw, size)])

    return portioned
