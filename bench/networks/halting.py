"""The halting network: adaptive computation time (Graves 2016) inside each stage.

Within a stage, every block is a unit, or some of them are together, as the two of a transformer's
layer. Behind each unit but the last a score h says how much weight its state gets; once the weights
given reach 1, the image (the position, the token) halts, and the stage returns the weighted sum of
the states:

    N = min{ n : h_1 + ... + h_n >= 1 - eps },   the last unit counts as h := 1
    R = 1 - (h_1 + ... + h_(N-1))
    p_l = h_l for l < N,   p_N = R,   0 after;   ponder cost = N + R

One running number per image, position or token holds all of it: what is `left` of the weight 1; it
is 0 for what has halted. What halts and how a unit runs for those still active is a HaltingPolicy.
Owns the loop and the trace.

The published networks have pre-activation units; this trunk is the common post-activation one
(ReLU behind the sum), so states are never negative. That changes the method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.networks.gated import trunk_units
from bench.networks.halting_policy import HaltingPolicy, Needed
from bench.networks.splitting import Side, split
from bench.networks.trunk import Backbone, Block, Stage, Trunk, blocks_of
from bench.networks.unit import Branch, DynamicNet, Output, Unit

Score = Callable[[int, Tensor], Tensor]


def weigh(left: Tensor, scores: Tensor, *, eps: float) -> Tensor:
    """Return p of the unit that has just run, from what is left of the weight 1.

    `scores` of what has halted before do not matter: nothing is left to give.
    """
    return torch.where(left - scores <= eps, left, scores)


def lefts_of(ones: Tensor, scores: Iterable[Tensor], *, eps: float) -> list[Tensor]:
    """Return what is left before the first score and behind each."""
    lefts = [ones]
    for score in scores:
        lefts.append(lefts[-1] - weigh(lefts[-1], score, eps=eps))
    return lefts


def ponder(lefts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return N and the ponder cost N + R.

    The gradient of the cost reaches the scores through R alone, for N is a count.
    """
    left_l = torch.stack(list(lefts))
    units = (left_l > 0).sum(dim=0).to(left_l.dtype)
    # What halts gives all that was left: R.
    rest = (left_l[:-1] * (left_l[1:] <= 0)).sum(dim=0) + left_l[-1]
    return units, units + rest


class HaltingPath(NamedTuple):
    """One way through the blocks: masked, or branching.

    `score` reads a block's index, states and what is active, `advance` a block, states and what is
    `needed`.
    """

    score: Callable[[int, Tensor, Tensor], Tensor]
    advance: Callable[[Block, Tensor, Needed], Tensor]
    branch: Branch


def all_images(
    condition: Tensor, then: Side, otherwise: Side, *given: Tensor
) -> tuple[Tensor, ...]:
    """Run all images on: a `Branch` for those whose states have no weight any more."""
    return then(*given)


class HaltingResNet(DynamicNet):
    """A trunk whose stages end early, per image, position or token, where the scores say so.

    `Output.terms` of the masked path, all means over positions or tokens: `ponder_ns` (N, S), the
    ponder cost N + R of each stage with gradient; `units_ns` (N, S), the count N alone; and
    `scores_nl` (N, L), the scores in their order with gradient, 0 for what had halted before.
    """

    always_on_u: Tensor

    def __init__(self, backbone: Backbone, policy: HaltingPolicy) -> None:
        super().__init__()
        self.backbone = backbone
        self.trunk: Trunk = backbone.build()
        self.policy = policy
        policy.check(self.blocks, backbone.name)
        self.training_only = nn.ModuleDict()
        units = self.units()
        # Kept: describing the units of a ResNet-110 takes longer than skipping all of them.
        self.columns = {unit.name: column for column, unit in enumerate(units)}
        always_on_u = torch.tensor([float(unit.always_on) for unit in units])
        self.register_buffer("always_on_u", always_on_u, persistent=False)

    @property
    def blocks(self) -> list[Block]:
        return blocks_of(self.trunk)

    def units(self) -> Sequence[Unit]:
        """Stem, blocks (the first unit of each stage always runs), shortcuts, head, scores."""
        first = {b for stage in self.policy.stages for b in self.policy.units_of(stage)[0]}
        fixed = [b in first for b in range(self.backbone.num_blocks)]
        return [*trunk_units(self.trunk, self.backbone, always_on=fixed), *self.policy.units()]

    def forward(self, x_nchw: Tensor) -> Output:
        return self._masked(x_nchw, self.policy.score, {})

    def forward_all_on(self, x_nchw: Tensor) -> Output:
        def never(_: int, state: Tensor, __: Tensor) -> Tensor:
            return torch.zeros_like(self.policy.ones(state))

        way = HaltingPath(never, lambda block, state, _: block(state), all_images)
        return Output(*self._run(x_nchw, way), {})

    def forward_permuted(self, x_nchw: Tensor, order_n: Tensor) -> Output:
        own: dict[int, Tensor] = {}
        self._masked(x_nchw, self.policy.score, own)
        return self._masked(x_nchw, lambda block, _: own[block][order_n], {})

    @torch.no_grad()
    def position_costs(self, x_nchw: Tensor) -> Tensor | None:
        """Return the blocks that run at each pixel; a position of a later stage covers 4 or 16.

        Where sides do not halve evenly, and where tokens halt, which cost the less of an attention
        the fewer there are, the mean over an image is only nearly that of the trace.
        """
        if not self.policy.per_position:
            return None
        own: dict[int, Tensor] = {}
        self._masked(x_nchw, self.policy.score, own)
        total = x_nchw.new_zeros(len(x_nchw), 1, *x_nchw.shape[2:])
        for stage in self.policy.stages:
            first, *units = self.policy.units_of(stage)
            ones = self.policy.ones(x_nchw.new_empty(len(x_nchw), *stage.shape))
            ran = len(first) * ones
            for left, unit in zip(self._lefts(stage, ones, own)[1:], units, strict=True):
                ran = ran + len(unit) * self.policy.coverage(self.policy.needed(left > 0))
            total += self.policy.on_pixels(ran, *x_nchw.shape[2:])
        return total[:, 0]

    def execute(self, x_nchw: Tensor) -> Output:
        way = HaltingPath(self.policy.score_active, self.policy.advance_active, split)
        return Output(*self._run(x_nchw, way), {})

    def run(self, x_nchw: Tensor, branch: Branch) -> tuple[Tensor, Tensor]:
        def score(block: int, state: Tensor, _: Tensor) -> Tensor:
            return self.policy.score(block, state)

        return self._run(x_nchw, HaltingPath(score, self.policy.advance_branching, branch))

    def _masked(self, x_nchw: Tensor, score: Score, own: dict[int, Tensor]) -> Output:
        """Run masked; note the scores behind the blocks in `own`."""

        def noted(block: int, state_nchw: Tensor, _: Tensor) -> Tensor:
            own[block] = score(block, state_nchw)
            return own[block]

        outs = self._run(x_nchw, HaltingPath(noted, self.policy.advance, all_images))
        ones = x_nchw.new_ones(len(x_nchw), 1, 1, 1, dtype=torch.float32)
        units, ponders, scores = [], [], [x_nchw.new_zeros(len(x_nchw), 0)]
        for stage in self.policy.stages:
            lefts = self._lefts(stage, ones, own)
            count, cost = ponder(lefts)
            units.append(_means(count))
            ponders.append(_means(cost))
            asked = [own[b] for b in stage.blocks if b in own]
            scores += [_means(h * (left > 0)) for h, left in zip(asked, lefts, strict=False)]
        found = {"ponder_ns": ponders, "units_ns": units, "scores_nl": scores}
        return Output(*outs, {name: torch.cat(parts, dim=1) for name, parts in found.items()})

    def _lefts(self, stage: Stage, ones: Tensor, own: Mapping[int, Tensor]) -> list[Tensor]:
        scores = [own[b] for b in stage.blocks if b in own]
        ones = torch.ones_like(scores[0], dtype=ones.dtype) if scores else ones
        return lefts_of(ones, scores, eps=self.policy.eps)

    def _run(self, x_nchw: Tensor, way: HaltingPath) -> tuple[Tensor, Tensor]:
        state = self.trunk.stem(x_nchw)
        executed_nu = self.always_on_u.repeat(x_nchw.shape[0], 1)
        columns_u = list(executed_nu.unbind(1))
        for stage in self.policy.stages:
            units = self.policy.units_of(stage)
            for b in units[0]:
                state = self.blocks[b](state)
            given = state, torch.zeros_like(state), self.policy.ones(state)
            state, shares_na = self._behind(units, way, *given)
            for name, share_n in zip(self._asked(units), shares_na.unbind(1), strict=True):
                columns_u[self.columns[name]] = share_n
        return self.trunk.head(state), torch.stack(columns_u, dim=1)

    def _behind(
        self, units: Sequence[range], way: HaltingPath, state: Tensor, total: Tensor, left: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weigh the states behind the first of these units, and run the others for what is active.

        Returns the output of the stage, and what was executed (N, A) of `_asked`.
        """
        none_na = left.new_zeros(left.shape[0], len(self._asked(units)))
        if len(units) == 1:
            return total + left * state, none_na
        ended, following = units[0][-1], units[1]
        weights = weigh(left, way.score(ended, state, left > 0), eps=self.policy.eps)
        total, left = total + weights * state, left - weights

        def advance(state: Tensor, total: Tensor, left: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
            own: dict[str, Tensor] = {}
            needed = self.policy.needed(left > 0)
            for b in following:
                own |= self.policy.shares(b, needed)
                state = way.advance(self.blocks[b], state, needed)
            out, later_na = self._behind(units[1:], way, state, total, left)
            return out, torch.cat([torch.stack(list(own.values()), dim=1), later_na], dim=1)

        def halt(_: Tensor, total: Tensor, __: Tensor, none_na: Tensor) -> tuple[Tensor, Tensor]:
            return total, none_na

        active_n = (left > 0).flatten(1).any(dim=1)
        out, shares_na = way.branch(active_n, advance, halt, state, total, left, none_na)
        return out, shares_na

    def _asked(self, units: Sequence[range]) -> list[str]:
        """Return what runs behind the first of these units only if anything is active."""
        found: list[str] = []
        for b in (b for unit in units[1:] for b in unit):
            found += [f"block{b}", *(name for name, _ in self.policy.score_units(b))]
        return found


def _means(values: Tensor) -> Tensor:
    """Return means over all but the images, (N, 1)."""
    return values.flatten(1).mean(dim=1, keepdim=True)
