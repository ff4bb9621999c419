"""A trunk with exits: two classifiers on the way.

Every method that may end a network early is an instance of this class with its own rule
(exit_rules.py); the loop over the stretches between exits lives here. Owns the exit heads, the list
of units and the columns of the trace; how rules are fitted to held-out images is
exit_calibration.py's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import Unsupported
from bench.networks.cifar_resnet import Head
from bench.networks.exit_rules import ExitRule
from bench.networks.gated import has_cost, trunk_units
from bench.networks.trunk import Backbone, Block, Trunk, blocks_of
from bench.networks.unit import (
    Branch,
    DynamicNet,
    Output,
    RemovedResidual,
    Unit,
    executed_whole,
)

NUM_EXITS = 2  # behind each third; the trunk's own head is the last way out
HeadKind = Literal["pooled", "grid", "convolution"]
_GRID_SIDE = 4


class GridHead(nn.Module):
    """Means over a grid of at most 4x4 fields, or over at most 16 runs of tokens; and a linear
    classifier of all of them."""

    def __init__(self, num_classes: int, shape_chw: tuple[int, ...]) -> None:
        super().__init__()
        if len(shape_chw) == 3:
            width, *sides = shape_chw
            fields = [min(_GRID_SIDE, side) for side in sides]
        else:
            tokens, width = shape_chw
            fields = [1, min(_GRID_SIDE**2, tokens)]
        self.fields = (fields[0], fields[1])
        self.linear = nn.Linear(width * fields[0] * fields[1], num_classes)

    def forward(self, h: Tensor) -> Tensor:
        maps_nchw = h if h.ndim == 4 else h.transpose(1, 2)[:, :, None]
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(maps_nchw, self.fields).flatten(1))
        return logits


class ConvolutionalHead(nn.Module):
    """conv3x3, batch norm, ReLU; then pooling and a linear classifier as at the trunk's end."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.head = Head(num_classes, width)
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, h_nchw: Tensor) -> Tensor:
        logits: Tensor = self.head(F.relu(self.bn(self.conv(h_nchw)), inplace=True))
        return logits


class ExitResNet(DynamicNet):
    """A trunk that an image may leave behind one or two thirds of it, where the rule says so.

    An exit lies where a stage ends, if there are as many: of a CIFAR ResNet behind stages 1 and 2.

    There are W = E + 1 ways out, counted from 0: the exits, and the trunk's own head. An image that
    leaves by one of them ran all that lies before it, the heads of earlier exits included.
    `point` is the operating point of the rule that the network is set to; `at` gives the others.
    Modules that only training needs go into `training_only`; `inference_net` drops them.
    """

    passed_u: Tensor

    def __init__(self, backbone: Backbone, rule: ExitRule, *, head: HeadKind = "pooled") -> None:
        super().__init__()
        assert rule.num_exits == NUM_EXITS
        self.backbone = backbone
        self.trunk: Trunk = backbone.build()
        self.starts = (0, *backbone.thirds)
        if head == "convolution":
            backbone.require_maps(f"An exit with a {head} head")
        self.exits = nn.ModuleList(
            _head(head, unit.input_shape, backbone.num_classes)
            for unit in trunk_units(self.trunk, backbone)
            if unit.name in self._first_behind_exits
        ).to(memory_format=torch.channels_last)
        self.rule = rule
        self.training_only = nn.ModuleDict()
        self.point = rule.num_points // 2
        self.last = NUM_EXITS
        passed_u = torch.tensor([passed for _, passed in self._units()])
        self.register_buffer("passed_u", passed_u, persistent=False)

    @property
    def blocks(self) -> list[Block]:
        return blocks_of(self.trunk)

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """The classifiers of all ways out, the trunk's head last."""
        return (*self.exits, self.trunk.head)

    def units(self) -> Sequence[Unit]:
        """The trunk's units, then per exit its head and what its rule costs."""
        return [unit for unit, _ in self._units()]

    def at(self, point: int) -> ExitResNet:
        """Return this network set to another operating point: a view, all weights are shared."""
        view = copy.copy(self)
        view.point = point
        return view

    def views(self, names: Sequence[str]) -> list[tuple[str, ExitResNet]]:
        """Return all operating points with their names, the middle one, the default, first."""
        middle = len(names) // 2
        order = [middle, *(point for point in range(len(names)) if point != middle)]
        return [(names[point], self.at(point)) for point in order]

    def forward(self, x_nchw: Tensor) -> Output:
        logits_wnk = self.exit_logits(x_nchw)
        return self._leaving(logits_wnk, self._ways_out(logits_wnk))

    def forward_all_on(self, x_nchw: Tensor) -> Output:
        if self.last < NUM_EXITS:
            raise Unsupported("What lies behind an exit that all images take was removed.")
        logits_wnk = self.exit_logits(x_nchw)
        return self._leaving(logits_wnk, self._none_leave(logits_wnk))

    def forward_permuted(self, x_nchw: Tensor, order_n: Tensor) -> Output:
        logits_wnk = self.exit_logits(x_nchw)
        return self._leaving(logits_wnk, self._ways_out(logits_wnk)[order_n])

    def execute(self, x_nchw: Tensor) -> Output:
        return executed_whole(self, x_nchw)

    def run(self, x_nchw: Tensor, branch: Branch) -> tuple[Tensor, Tensor]:
        return self._from(0, self.trunk.stem(x_nchw), branch)

    def inference_net(self, *, dead_blocks: frozenset[str] = frozenset()) -> DynamicNet:
        """Return a copy without training-only modules and without all that follows the exit
        before the first dead block: there every image leaves, whatever the rule says."""
        net = copy.deepcopy(self)
        net.training_only = nn.ModuleDict()
        dead = [name in dead_blocks for name in net._first_behind_exits]
        if any(dead):
            net._cut_behind(dead.index(True))
        return net

    def states(self, x_nchw: Tensor) -> Iterator[Tensor]:
        """Yield the state at each way out, (N, C, h, w); what is not asked for is not computed."""
        h_nchw = self.trunk.stem(x_nchw)
        for stretch in self.stretches():
            for block in stretch:
                h_nchw = block(h_nchw)
            yield h_nchw

    def exit_logits(self, x_nchw: Tensor) -> Tensor:
        """Return the logits of all ways out, (W, N, K), none leaving."""
        heads = self.heads[: self.last + 1]
        pairs = zip(heads, self.states(x_nchw), strict=False)  # the heads end it
        return torch.stack([head(h_nchw) for head, h_nchw in pairs])

    def side_logits(self, x_nchw: Tensor) -> Tensor:
        """Return the logits of the exits alone, (E, N, K); the trunk gets no gradient, and what
        lies behind the last exit is not computed."""
        states = self.states(x_nchw)
        with torch.no_grad():
            states_e = [next(states) for _ in self.exits]
        pairs = zip(self.exits, states_e, strict=True)
        return torch.stack([head(h_nchw) for head, h_nchw in pairs])

    @property
    def _first_behind_exits(self) -> list[str]:
        return [f"block{start}" for start in self.starts[1:]]

    def stretches(self) -> list[list[Block]]:
        """Return the blocks up to each way out, from the one before it."""
        blocks, ends = self.blocks, (*self.starts[1:], None)
        return [blocks[start:end] for start, end in zip(self.starts, ends, strict=True)]

    def _units(self) -> list[tuple[Unit, int]]:
        """Each unit with the number of exits that lie before it."""
        listed: list[tuple[Unit, int]] = []
        exits: list[tuple[Unit, int]] = []
        passed = 0
        for unit in trunk_units(self.trunk, self.backbone):
            if unit.name in self._first_behind_exits:
                name = f"exit{passed + 1}"
                head = Unit(name, self.exits[passed], unit.input_shape, True, "policy")
                exits += [(part, passed) for part in (head, *self.rule.units(passed))]
                passed += 1
            listed.append((unit, passed))
        return [(unit._replace(always_on=n == 0), n) for unit, n in (*listed, *exits)]

    def _none_leave(self, logits_wnk: Tensor) -> Tensor:
        count = logits_wnk.shape[1]
        return torch.full((count,), self.last, dtype=torch.int64, device=logits_wnk.device)

    def _ways_out(self, logits_wnk: Tensor) -> Tensor:
        """Return by which way out each image leaves, (N,) in 0 ... E."""
        way_n = self._none_leave(logits_wnk)
        for e in reversed(range(self.last)):
            leaves_n = self.rule.leaves(logits_wnk[e].detach(), exit_index=e, point=self.point)
            way_n = torch.where(leaves_n, e, way_n)
        return way_n

    def _leaving(self, logits_wnk: Tensor, way_n: Tensor) -> Output:
        logits_nk = logits_wnk[way_n, torch.arange(len(way_n), device=way_n.device)]
        terms = {"exit_logits_wnk": logits_wnk, "way_n": way_n}
        return Output(logits_nk, self._trace(way_n), terms)

    def _trace(self, way_n: Tensor) -> Tensor:
        return (self.passed_u <= way_n[:, None]).float()

    def _from(self, way: int, h_nchw: Tensor, branch: Branch) -> tuple[Tensor, Tensor]:
        """Go on with images that have not left before way out `way`."""
        for block in self.stretches()[way]:
            h_nchw = block(h_nchw)
        logits_nk: Tensor = self.heads[way](h_nchw)

        def leave(logits_nk: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
            return logits_nk, (self.passed_u <= way).float().expand(logits_nk.shape[0], -1)

        def go_on(_: Tensor, h_nchw: Tensor) -> tuple[Tensor, Tensor]:
            return self._from(way + 1, h_nchw, branch)

        if way == self.last:
            return leave(logits_nk, h_nchw)
        stays_n = ~self.rule.leaves(logits_nk, exit_index=way, point=self.point)
        logits_nk, executed_nu = branch(stays_n, go_on, leave, logits_nk, h_nchw)
        return logits_nk, executed_nu

    def _cut_behind(self, way: int) -> None:
        """Remove what lies behind exit `way`, counted from 0, and let every image leave there."""
        self.last = way
        for block in self.blocks[self.starts[way + 1] :]:
            block.register_module("residual", RemovedResidual())
            for name in ("shortcut", "then"):
                if has_cost(getattr(block, name)):
                    block.register_module(name, RemovedResidual())
        for later in range(way + 1, NUM_EXITS):
            self.exits[later] = RemovedResidual()
        self.trunk.register_module("head", RemovedResidual())


def _head(kind: HeadKind, shape_chw: tuple[int, ...], num_classes: int) -> nn.Module:
    if kind == "pooled":
        return Head(num_classes, shape_chw[0] if len(shape_chw) == 3 else shape_chw[-1])
    if kind == "grid":
        return GridHead(num_classes, shape_chw)
    return ConvolutionalHead(num_classes, shape_chw[0])
