"""The forms a network can take in a graph, best first: branches, then masks.

A form is a module from images (N, C, H, W) to logits (N, K) and the trace (N, U). Owns the choice;
whether a form computes what the run computes is checked elsewhere, each time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from bench.export.description import Batch, Form
from bench.networks.branching import branching_exits, branching_gates
from bench.networks.branching_halting import branching_halting
from bench.networks.exits import ExitResNet
from bench.networks.folding import fold_batch_norms
from bench.networks.gated import GatedResNet
from bench.networks.halting import HaltingResNet
from bench.networks.halting_policy import ImageHalting
from bench.networks.unit import DynamicNet


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to write a network down; `make` may fail."""

    form: Form
    batch: Batch
    folded: bool
    make: Callable[[], nn.Module]


class Masked(nn.Module):
    """The masked path: decisions are factors, and everything runs."""

    def __init__(self, net: DynamicNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        output = self.net(x_nchw)
        return output.logits, output.executed


def candidates(net: DynamicNet, probe_nchw: Tensor) -> Iterator[Candidate]:
    """Yield what to try, best first: each form with batch norm folded, then as it is.

    Folding rounds anew: a decision that hangs on the last digit may need the network as it is.
    """
    for form, batch, make in _forms(net):
        for prepared in (_folded, _as_is):
            making = partial(_made, make, prepared, net, probe_nchw)
            yield Candidate(form, batch, prepared is _folded, making)


Make = Callable[[DynamicNet, Tensor], nn.Module]


def _forms(net: DynamicNet) -> Iterator[tuple[Form, Batch, Make]]:
    if not any(unit.gated for unit in net.units()):
        yield "plain", "any", _masked
        yield "plain", "one", _masked
        return
    if isinstance(net, GatedResNet):
        yield "branches", "one", branching_gates
    if isinstance(net, ExitResNet):
        yield "branches", "one", branching_exits
    if isinstance(net, HaltingResNet) and isinstance(net.policy, ImageHalting):
        yield "branches", "one", branching_halting
    yield "masked", "any", _masked
    yield "masked", "one", _masked


def _masked(net: DynamicNet, probe_nchw: Tensor) -> nn.Module:
    return Masked(net)


def _made(make: Make, prepared: Make, net: DynamicNet, probe_nchw: Tensor) -> nn.Module:
    twin = prepared(net, probe_nchw)
    assert isinstance(twin, DynamicNet)
    return make(twin, probe_nchw)


def _as_is(net: DynamicNet, probe_nchw: Tensor) -> DynamicNet:
    return copy.deepcopy(net).eval().requires_grad_(False)


def _folded(net: DynamicNet, probe_nchw: Tensor) -> DynamicNet:
    twin = _as_is(net, probe_nchw)
    fold_batch_norms(twin, probe_nchw)
    if isinstance(twin, GatedResNet):
        twin.policy = twin.policy.lean()
    # Folded weights are parameters anew.
    return twin.requires_grad_(False)
