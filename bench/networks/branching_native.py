"""The graph of a gated network for one image whose blocks are our own operators.

There a gate is an argument of the block and no branch of the graph: the operator looks at it and
returns the state it was given. Owns the fourth form of the loop over gated blocks; it must agree
with the network's own, which is checked before it is used.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.networks.execution import Step, route_of, skipped
from bench.networks.gated import GatedResNet, always_run, block_columns
from bench.networks.native_parts import NativeBlock
from bench.networks.policy import ByMeans, UpFront

_NOWHERE = -1


class NativeGated(nn.Module):
    """A gated ResNet for one image (1, C, H, W), all of whose blocks select."""

    fixed_1u: Tensor
    column_b: Tensor

    def __init__(self, net: GatedResNet, route: list[Step]) -> None:
        super().__init__()
        self.net, self.route = net, route
        columns = block_columns(net.units())
        asked = [not (step.removed or net.policy.always_on[b]) for b, step in enumerate(route)]
        column_b = [columns[b] if gated else _NOWHERE for b, gated in enumerate(asked)]
        self.register_buffer("fixed_1u", always_run(net)[None])
        self.register_buffer("column_b", torch.tensor(column_b))
        self._areas = net.backbone.areas

    def forward(self, x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        h_nchw = self.net.trunk.stem(x_nchw)
        decisions = self.net.policy.begin(x_nchw, h_nchw)
        if isinstance(decisions, ByMeans):
            return self._by_means(decisions, h_nchw)
        known = _readable(decisions.gates_nb) if isinstance(decisions, UpFront) else None
        asked: list[Tensor] = []
        for index, step in enumerate(self.route):
            gate_n = decisions.gate(index, h_nchw)
            if step.removed or gate_n is None:
                h_nchw = self._ungated(step, h_nchw)
                continue
            assert isinstance(step.block, NativeBlock)
            if known is not None:
                h_nchw = step.block.if_open(known, index, h_nchw, step.clips)
            else:
                asked.append(_readable(gate_n))
                h_nchw = step.block.if_open(asked[-1], 0, h_nchw, step.clips)
        gates, column_g = ([known], self.column_b) if known is not None else (asked, self._asked())
        return self.net.trunk.head(h_nchw), self._executed(gates, column_g)

    def _by_means(self, decisions: ByMeans, h_nchw: Tensor) -> tuple[Tensor, Tensor]:
        sum_nc = _sum_of(h_nchw)
        opens: list[Tensor] = []
        for index, step in enumerate(self.route):
            open_n = decisions.is_open(index, sum_nc, self._areas[index])
            if step.removed or open_n is None:
                h_nchw = self._ungated(step, h_nchw)
                sum_nc = _sum_of(h_nchw)
                continue
            assert isinstance(step.block, NativeBlock)
            opens.append(_readable(open_n))
            h_nchw, sum_nc = step.block.with_sum_if_open(opens[-1], h_nchw, sum_nc, step.clips)
        logits_nk = self.net.trunk.head.of_sum(sum_nc, self._areas[-1])
        return logits_nk, self._executed(opens, self._asked())

    def _ungated(self, step: Step, h_nchw: Tensor) -> Tensor:
        if not step.removed:
            return step.block(h_nchw)  # type: ignore[no-any-return]
        return h_nchw if step.keeps else skipped(step.block, h_nchw, self.net.merge)

    def _asked(self) -> Tensor:
        return self.column_b[self.column_b != _NOWHERE]

    def _executed(self, gates: list[Tensor], column_g: Tensor) -> Tensor:
        executed_1u: Tensor = torch.ops.skipbench.executed(gates, self.fixed_1u, column_g)
        return executed_1u


def native_gates(net: GatedResNet) -> NativeGated | None:
    """Return the network in this form; None where some block is no operator of ours."""
    route = route_of(net.blocks, net.merge)
    fits = all(
        isinstance(step.block, NativeBlock) and step.selects for step in route if not step.removed
    )
    return NativeGated(net, route) if fits else None


def _readable(gates: Tensor) -> Tensor:
    return gates if gates.dtype in (torch.bool, torch.float32) else gates.float()


def _sum_of(h_nchw: Tensor) -> Tensor:
    sum_nc: Tensor = torch.ops.skipbench.sum_positions(h_nchw)
    return sum_nc
