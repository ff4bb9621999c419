"""A halting ResNet for one image as one graph, where positions halt.

The same arithmetic as position_crowd.py on the same padded rows; but what belongs to a position is
kept for the active ones alone, and between two kernels nothing of Python is left. It must agree
with `execute`, which is checked before it is used. Annotations are evaluated here: TorchScript
reads them.
"""

from typing import Any

import torch
from torch import Tensor, nn

from bench.networks.halting import HaltingResNet, running
from bench.networks.padded_rows import Grid, grid_of
from bench.networks.position_scores import LocalScore, OfMean, PositionScore, ScaleAndShift
from bench.networks.positions import PositionHalting
from bench.networks.resnet import Block, Residual
from bench.networks.tracing import scripted, traced
from bench.networks.unit import DynamicNet

# Above this share of active positions a block runs everywhere, and the others keep their state.
_MOSTLY = 0.75


class Places(nn.Module):
    """The geometry of one image (1, C, h, w) whose positions are rows (R, C) with a border."""

    inside_r: Tensor
    near_3: Tensor
    position_r: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.height, self.width, self.across = grid.height, grid.width, grid.row_width
        self.register_buffer("inside_r", grid.inside_r.clone())
        self.register_buffer("near_3", (torch.arange(3) - 1) * grid.row_width - 1)
        self.register_buffer("position_r", grid.inside_r.long().cumsum(0) - 1)

    def forward(self, row_m: Tensor) -> Tensor:
        """Return where the neighbourhoods of some rows begin, (3 M,)."""
        return (row_m.unsqueeze(1) + self.near_3).view(-1)

    @torch.jit.export
    def around(self, near_3m: Tensor) -> Tensor:
        """Return the rows of those whose neighbourhoods begin there, and of their neighbours."""
        grown_r = torch.zeros_like(self.inside_r)
        begin_r = grown_r.index_fill(0, near_3m, True)
        grown_r[2:] = begin_r[2:].bitwise_or(begin_r[1:-1]).bitwise_or_(begin_r[:-2])
        return grown_r.bitwise_and_(self.inside_r).nonzero().view(-1)

    @torch.jit.export
    def image_in(self, rows_rc: Tensor) -> Tensor:
        """Return the image (1, C, h, w) in rows, a view."""
        padded = rows_rc.view(self.height + 2, self.across, rows_rc.size(1))
        return padded[1:-1, 1:-1].permute(2, 0, 1).unsqueeze(0)

    @torch.jit.export
    def image_of(self, states_mc: Tensor) -> Tensor:
        """Return the image of the states of all positions, a view."""
        return states_mc.view(1, self.height, self.width, -1).permute(0, 3, 1, 2)


class Convolution(nn.Module):
    """A 3x3 convolution at the rows whose neighbourhoods begin there: (M, C_out)."""

    bias: Tensor
    weight: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        self.register_buffer("bias", bias.clone())
        weight = conv.weight.detach().permute(2, 3, 1, 0).flatten(0, 2)
        self.register_buffer("weight", weight.contiguous())

    def forward(self, rows_rc: Tensor, near_3m: Tensor) -> Tensor:
        return torch.addmm(self.bias, patches(rows_rc, near_3m), self.weight)


class Score(nn.Module):
    """The score h (M,) at the rows whose neighbourhoods begin there."""

    scale: Tensor
    shift: Tensor
    mean: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, score: PositionScore, grid: Grid, bias: float) -> None:
        super().__init__()
        local, whole = score.local, score.whole
        assert isinstance(local, LocalScore) and isinstance(whole, OfMean)
        layers = local.features if isinstance(local.features, nn.Sequential) else [local.features]
        first, *rest = layers
        assert isinstance(first, ScaleAndShift), "features of another kind"
        assert all(isinstance(layer, nn.LeakyReLU | nn.ReLU) for layer in rest), "as before"
        self.register_buffer("scale", first.scale.view(1, -1).clone())
        # Features are zero outside of the image, as states are.
        self.register_buffer("shift", first.shift.view(1, -1) * grid.inside_r1)
        self.rest: Any = traced(nn.Sequential(*rest), self.shift)
        self.whole: Any = traced(whole.layers, torch.zeros_like(self.scale))
        self.register_buffer("mean", grid.inside_r1.t() / grid.num_positions)
        weight = local.conv.weight.detach().permute(2, 3, 1, 0).flatten()
        self.register_buffer("weight", weight.contiguous())
        conv_bias = torch.zeros(1) if local.conv.bias is None else local.conv.bias.detach()
        self.register_buffer("bias", conv_bias + bias)

    def forward(self, rows_rc: Tensor, near_3m: Tensor) -> Tensor:
        features_rc = self.rest(torch.addcmul(self.shift, rows_rc, self.scale))
        whole_1 = self.whole(torch.mm(self.mean, rows_rc)).view(1) + self.bias
        return torch.addmv(whole_1, patches(features_rc, near_3m), self.weight).sigmoid_()


Active = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""What belongs to the active positions: their rows (M,), where their neighbourhoods begin (3 M,),
what is left of the weight 1 (M,), their states (M, C) and the weighted sums of these (M, C)."""


class Step(nn.Module):
    """Weighs the states behind a block, and runs the next block where positions stay active."""

    def __init__(self, score: Any, block: Any, residual: Residual, places: Places) -> None:
        super().__init__()
        self.score, self.block, self.places = score, block, places
        self.first, self.second = Convolution(residual.conv1), Convolution(residual.conv2)
        self.area = places.height * places.width
        self.most = int(_MOSTLY * self.area)

    def forward(
        self, active: Active, rows_rc: Tensor, hidden_rc: Tensor, total_rc: Tensor, eps: float
    ) -> tuple[Active, int]:
        """Go on by one block; also count the active positions and their neighbours."""
        row_m, near_3m, left_m, states_mc, sums_mc = active
        scores_m = self.score(rows_rc, near_3m)
        weights_m = torch.where(left_m - scores_m <= eps, left_m, scores_m)
        left_m = left_m - weights_m
        sums_mc = torch.addcmul(sums_mc, states_mc, weights_m.unsqueeze(1))
        stays_k = left_m.nonzero().view(-1)
        around = stays_k.size(0)
        if around < row_m.size(0):
            # The sums of who stays are written once more when they halt.
            total_rc.index_copy_(0, row_m, sums_mc)
            row_m, left_m = row_m.index_select(0, stays_k), left_m.index_select(0, stays_k)
            states_mc, sums_mc = (
                states_mc.index_select(0, stays_k),
                sums_mc.index_select(0, stays_k),
            )
            near_3m = self.places(row_m)
        if around == self.area:
            states_nchw = self.block(self.places.image_of(states_mc))
            self.places.image_in(rows_rc).copy_(states_nchw)
            states_mc = states_nchw.permute(0, 2, 3, 1).reshape(self.area, -1)
        elif around > 0:
            around_m = self.places.around(near_3m)
            around = around_m.size(0)
            if row_m.size(0) > self.most:
                inner_nchw = self.places.image_in(rows_rc)
                states_nchw = self.block(inner_nchw.contiguous(memory_format=torch.channels_last))
                states_mc = states_nchw.permute(0, 2, 3, 1).reshape(self.area, -1)
                position_m = self.places.position_r.index_select(0, row_m)
                states_mc = states_mc.index_select(0, position_m)
            else:
                hidden_mc = self.first(rows_rc, self.places(around_m)).relu_()
                hidden_rc.index_copy_(0, around_m, hidden_mc)
                states_mc = self.second(hidden_rc, near_3m).add_(states_mc).relu_()
            rows_rc.index_copy_(0, row_m, states_mc)
        return (row_m, near_3m, left_m, states_mc, sums_mc), around


class Steps(nn.Module):
    """A stage behind its first block: its output, and the active positions and those around them
    in each further block, (B, 2)."""

    row_m: Tensor
    near_3m: Tensor

    def __init__(self, steps: list[Step], places: Places, grid: Grid, eps: float) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.places, self.eps, self.num_rows = places, eps, grid.num_rows
        self.register_buffer("row_m", grid.everywhere.row_m.clone())
        self.register_buffer("near_3m", grid.everywhere.near_3m.clone())

    def forward(self, state_nchw: Tensor) -> tuple[Tensor, Tensor]:
        rows_rc = torch.zeros(self.num_rows, state_nchw.size(1))
        hidden_rc, total_rc = torch.zeros_like(rows_rc), torch.zeros_like(rows_rc)
        self.places.image_in(rows_rc).copy_(state_nchw)
        states_mc = state_nchw.permute(0, 2, 3, 1).reshape(self.row_m.size(0), -1)
        left_m = torch.ones(self.row_m.size(0))
        active = self.row_m, self.near_3m, left_m, states_mc, torch.zeros_like(states_mc)
        counts: list[int] = []
        for step in self.steps:
            around = 0
            if active[0].size(0) > 0:
                active, around = step(active, rows_rc, hidden_rc, total_rc, self.eps)
            counts += [active[0].size(0), around]
        row_m, _, left_m, states_mc, sums_mc = active
        if row_m.size(0) > 0:
            sums_mc = torch.addcmul(sums_mc, states_mc, left_m.unsqueeze(1))
            total_rc.index_copy_(0, row_m, sums_mc)
        total_nchw = self.places.image_in(total_rc).contiguous(memory_format=torch.channels_last)
        return total_nchw, torch.tensor(counts, dtype=torch.int64).view(-1, 2)


class Positions(nn.Module):
    """The whole network: logits (1, K) and the trace (1, U)."""

    fixed_1u: Tensor
    area_b1: Tensor
    column_s: Tensor
    scored_k: Tensor

    def __init__(self, net: HaltingResNet, stages: list[Any]) -> None:
        super().__init__()
        self.net = net
        self.stages = nn.ModuleList(stages)
        self.register_buffer("fixed_1u", torch.tensor([[float(u.always_on) for u in net.units()]]))
        columns = {unit.name: column for column, unit in enumerate(net.units())}
        ran = [(b, stage) for stage in net.policy.stages for b in running(net.blocks, stage)]
        areas = [[float(stage.shape[1] * stage.shape[2])] for _, stage in ran]
        scored = [k for k, (b, _) in enumerate(ran) if f"score{b}" in columns]
        names = [f"block{b}" for b, _ in ran]
        for part in ("score{}", "score{}.global"):
            names += [part.format(ran[k][0]) for k in scored]
        self.register_buffer("area_b1", torch.tensor(areas).view(-1, 1))
        self.register_buffer("scored_k", torch.tensor(scored, dtype=torch.int64))
        column_s = torch.tensor([columns[name] for name in names], dtype=torch.int64)
        self.register_buffer("column_s", column_s)

    def forward(self, x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        state_nchw = self.net.trunk.stem(x_nchw)
        counts: list[Tensor] = []
        for stage, steps in zip(self.net.policy.stages, self.stages, strict=True):
            state_nchw, counts_b2 = steps(self.net.blocks[stage.blocks[0]](state_nchw))
            counts.append(counts_b2.view(-1, 2))
        # In the order of shares_of, so that it rounds alike.
        active_b, around_b = (torch.cat(counts) / self.area_b1).unbind(dim=1)
        scored_s = active_b.index_select(0, self.scored_k)
        shares_s = torch.cat([(around_b + active_b) / 2, scored_s, (scored_s > 0).float()])
        executed_1u = self.fixed_1u.index_copy(1, self.column_s, shares_s.unsqueeze(0))
        return self.net.trunk.head(state_nchw), executed_1u


def patches(rows_rc: Tensor, near_3m: Tensor) -> Tensor:
    """Return the neighbourhoods (M, 9 C) that begin there."""
    channels = rows_rc.size(1)
    triples = rows_rc.as_strided([rows_rc.size(0) - 2, 3 * channels], [channels, 1])
    return triples.index_select(0, near_3m).view(-1, 9 * channels)


def branching_positions(net: DynamicNet, probe_nchw: Tensor) -> nn.Module:
    """Return a folded network whose positions halt, for one image."""
    assert isinstance(net, HaltingResNet) and isinstance(net.policy, PositionHalting)
    stages: list[Any] = []
    h_nchw = net.trunk.stem(probe_nchw[:1])
    for stage in net.policy.stages:
        h_nchw = net.blocks[stage.blocks[0]](h_nchw)
        if stage.blocks[0] in net.policy.operators:
            stages.append(net.policy.operators[stage.blocks[0]])
            continue
        grid = grid_of(1, *stage.shape[1:], probe_nchw.device)
        places = Places(grid)
        steps = [
            _step(net.policy, b, net.blocks[b], h_nchw, grid, places)
            for b in running(net.blocks, stage)
        ]
        stages.append(scripted(Steps(steps, places, grid, net.policy.eps)))
    return Positions(net, stages)


def _step(
    policy: PositionHalting, b: int, block: Block, h_nchw: Tensor, grid: Grid, places: Places
) -> Step:
    score = policy.scores[str(b - 1)]
    assert isinstance(score, PositionScore) and isinstance(block.residual, Residual)
    lean = Score(score, grid, policy.bias)
    return Step(lean, traced(block, h_nchw), block.residual, places)
