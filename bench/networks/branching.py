"""Graphs of one image at a time in which a decision is a branch: what is skipped is not computed.

Everything is traced but the branches, which are scripted, so that policies stay whatever Python
they are. Owns the third form of the loops over gated blocks and over exits; both must agree with
the networks' own, which is checked for every file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.networks.branching_native import native_gates
from bench.networks.execution import Merge
from bench.networks.exits import ExitResNet
from bench.networks.gated import GatedResNet, always_run, block_columns
from bench.networks.policy import ByMeans, UpFront
from bench.networks.resnet import Block
from bench.networks.tracing import scripted, traced
from bench.networks.unit import DynamicNet, RemovedResidual


class Branch(nn.Module):
    """A block that runs if its gate, a boolean (1,), is open."""

    def __init__(self, run: Any, skip: Any) -> None:
        super().__init__()
        self.run = run
        self.skip = skip

    def forward(self, open_n: Tensor, h_nchw: Tensor) -> Tensor:
        if bool(open_n):  # noqa: SIM108
            out = self.run(h_nchw)
        else:
            out = self.skip(h_nchw)
        return out  # type: ignore[no-any-return]


class BranchWithSum(nn.Module):
    """A block for gates that read means: the sum (1, C) over a state's positions goes with it.

    So it is computed once for each state and not for each gate, nor again for the head.
    """

    def __init__(self, run: Any, skip: Any) -> None:
        super().__init__()
        self.run = run
        self.skip = skip

    def forward(self, open_n: Tensor, h_nchw: Tensor, sum_nc: Tensor) -> tuple[Tensor, Tensor]:
        if bool(open_n):
            h_nchw, sum_nc = self.run(h_nchw, sum_nc)
        else:
            h_nchw, sum_nc = self.skip(h_nchw, sum_nc)
        return h_nchw, sum_nc


class WithSum(nn.Module):
    """What changes a state, giving also the sum of what comes out."""

    def __init__(self, change: nn.Module) -> None:
        super().__init__()
        self.change = change

    def forward(self, h_nchw: Tensor, sum_nc: Tensor) -> tuple[Tensor, Tensor]:
        h_nchw = self.change(h_nchw)
        return h_nchw, h_nchw.sum(dim=(2, 3))


class Kept(nn.Module):
    """What leaves a state, and so its sum, as they are."""

    def forward(self, h_nchw: Tensor, sum_nc: Tensor) -> tuple[Tensor, Tensor]:
        return h_nchw, sum_nc


class Skip(nn.Module):
    """What becomes of the state where a block does not run."""

    def __init__(self, block: Block, merge: Merge) -> None:
        super().__init__()
        self.block = block
        self.merge = merge

    def forward(self, h_nchw: Tensor) -> Tensor:
        return self.merge.skipped(self.block, self.block.shortcut(h_nchw))


class Gated(nn.Module):
    """A gated ResNet for one image (1, C, H, W)."""

    def __init__(self, net: GatedResNet, branches: dict[str, Any]) -> None:
        super().__init__()
        self.net = net
        self.branches = nn.ModuleDict(branches)
        fixed_u, place_gu = _trace_plan(net, [int(index) for index in branches])
        self.register_buffer("fixed_1u", fixed_u[None])
        self.register_buffer("place_gu", place_gu)

    fixed_1u: Tensor
    place_gu: Tensor

    def forward(self, x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        h_nchw = self.net.trunk.stem(x_nchw)
        decisions = self.net.policy.begin(x_nchw, h_nchw)
        if isinstance(decisions, ByMeans):
            return self._by_means(decisions, h_nchw)
        # All at once where all are known: an operation per block is a part of what skipping saves.
        known: Sequence[Tensor] | None = None
        if isinstance(decisions, UpFront):
            known = (decisions.gates_nb > 0.5).unbind(dim=1)
        opens: list[Tensor] = []
        for index, block in enumerate(self.net.blocks):
            gate_n = decisions.gate(index, h_nchw)
            if isinstance(block.residual, RemovedResidual):
                h_nchw = self.net.merge.skipped(block, block.shortcut(h_nchw))
            elif gate_n is None:
                h_nchw = block(h_nchw)
            else:
                open_n = gate_n > 0.5 if known is None else known[index]
                h_nchw = self.branches[str(index)](open_n, h_nchw)
                opens.append(open_n)
        return self.net.trunk.head(h_nchw), self._executed(opens)

    def _by_means(self, decisions: ByMeans, h_nchw: Tensor) -> tuple[Tensor, Tensor]:
        opens: list[Tensor] = []
        sum_nc = h_nchw.sum(dim=(2, 3))
        areas = self.net.backbone.areas
        for index, block in enumerate(self.net.blocks):
            open_n = decisions.is_open(index, sum_nc, areas[index])
            if isinstance(block.residual, RemovedResidual):
                h_nchw = self.net.merge.skipped(block, block.shortcut(h_nchw))
                sum_nc = h_nchw.sum(dim=(2, 3))
            elif open_n is None:
                h_nchw = block(h_nchw)
                sum_nc = h_nchw.sum(dim=(2, 3))
            else:
                h_nchw, sum_nc = self.branches[str(index)](open_n, h_nchw, sum_nc)
                opens.append(open_n)
        return self.net.trunk.head.of_sum(sum_nc, areas[-1]), self._executed(opens)

    def _executed(self, opens: list[Tensor]) -> Tensor:
        if not opens:
            return self.fixed_1u.clone()
        # Of one image, so these are rows of one number each.
        ran_1g = torch.cat(opens).to(self.place_gu.dtype).unsqueeze(0)
        return torch.addmm(self.fixed_1u, ran_1g, self.place_gu)


class Way(nn.Module):
    """A stretch of blocks, the classifier behind it, and the trace of who leaves there."""

    executed_nu: Tensor

    def __init__(self, net: ExitResNet, way: int) -> None:
        super().__init__()
        ends = (*net.starts[1:], len(net.blocks))
        stem = [net.trunk.stem] if way == 0 else []
        self.stretch = nn.Sequential(*stem, *net.blocks[net.starts[way] : ends[way]])
        self.head = net.heads[way]
        self.register_buffer("executed_nu", (net.passed_u <= way).float()[None])

    def forward(self, h_nchw: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.stretch(h_nchw)), self.executed_nu.clone()


class WayOrOn(nn.Module):
    """A way out that not everybody takes: also the state to go on with, and whether to leave."""

    def __init__(self, net: ExitResNet, way: int) -> None:
        super().__init__()
        self.out = Way(net, way)
        self.rule = net.rule
        self.way, self.point = way, net.point

    def forward(self, h_nchw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h_nchw = self.out.stretch(h_nchw)
        logits_nk: Tensor = self.out.head(h_nchw)
        leaves_n = self.rule.leaves(logits_nk, exit_index=self.way, point=self.point)
        return h_nchw, leaves_n, logits_nk, self.out.executed_nu.clone()


class Exit(nn.Module):
    """A way out, and all that lies behind it for whoever stays."""

    def __init__(self, way: Any, rest: Any) -> None:
        super().__init__()
        self.way = way
        self.rest = rest

    def forward(self, h_nchw: Tensor) -> tuple[Tensor, Tensor]:
        h_nchw, leaves_n, logits_nk, executed_nu = self.way(h_nchw)
        if not bool(leaves_n):
            logits_nk, executed_nu = self.rest(h_nchw)
        return logits_nk, executed_nu


class WithExits(nn.Module):
    """The nested exits as one module, which can be traced: its branches stay."""

    def __init__(self, graph: Any) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        return self.graph(x_nchw)  # type: ignore[no-any-return]


def branching_gates(net: DynamicNet, probe_nchw: Tensor) -> nn.Module:
    """Return a gated ResNet whose gated blocks are branches."""
    assert isinstance(net, GatedResNet)
    native = native_gates(net)
    if native is not None:
        return native
    branches: dict[str, Any] = {}
    h_nchw = net.trunk.stem(probe_nchw[:1])
    reads_means = isinstance(net.policy.begin(probe_nchw[:1], h_nchw), ByMeans)
    branch = _branch_with_sum if reads_means else _branch
    for index, block in enumerate(net.blocks):
        skip = Skip(block, net.merge)
        if isinstance(block.residual, RemovedResidual):
            h_nchw = skip(h_nchw)
            continue
        if not net.policy.always_on[index]:
            branches[str(index)] = branch(block, net.merge, h_nchw)
        h_nchw = block(h_nchw)
    return Gated(net, branches)


def _branch(block: Block, merge: Merge, h_nchw: Tensor) -> Any:
    return scripted(Branch(traced(block, h_nchw), traced(Skip(block, merge), h_nchw)))


def _branch_with_sum(block: Block, merge: Merge, h_nchw: Tensor) -> Any:
    example = h_nchw, h_nchw.sum(dim=(2, 3))
    skip = Kept() if merge.keeps(block) else WithSum(Skip(block, merge))
    return scripted(BranchWithSum(traced(WithSum(block), *example), traced(skip, *example)))


def branching_exits(net: DynamicNet, probe_nchw: Tensor) -> nn.Module:
    """Return a ResNet with exits in which what lies behind an exit is a branch."""
    assert isinstance(net, ExitResNet)
    before = [probe_nchw[:1]]
    before += [state for state, _ in zip(net.states(probe_nchw[:1]), range(net.last), strict=False)]
    graph: Any = traced(Way(net, net.last), before[net.last])
    for way in reversed(range(net.last)):
        graph = scripted(Exit(traced(WayOrOn(net, way), before[way]), graph))
    return WithExits(graph)


def _trace_plan(net: GatedResNet, gated: list[int]) -> tuple[Tensor, Tensor]:
    """Return the ones of what always runs (U,), and which column each gated block has (G, U)."""
    columns = block_columns(net.units())
    fixed_u = always_run(net)
    place_gu = torch.zeros(len(gated), len(fixed_u))
    for row, b in enumerate(gated):
        place_gu[row, columns[b]] = 1
    return fixed_u, place_gu
