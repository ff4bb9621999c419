"""A trunk with exits: classifiers on the way.

Every method that may end a network early is an instance of this class with its own rule
(exit_rules.py), places (exit_places.py) and heads (exit_heads.py); the loop over the stretches
between exits lives here. Owns the list of units and the columns of the trace; how rules are fitted
to held-out images is exit_calibration.py's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from bench.networks.exit_heads import MAKERS, CascadingHead, HeadKind, HeadMaker
from bench.networks.exit_rules import Carried, ExitRule
from bench.networks.gated import trunk_units
from bench.networks.splitting import split
from bench.networks.trunk import Backbone, Block, Trunk, blocks_of
from bench.networks.unit import Branch, DynamicNet, Output, Unit

NUM_EXITS = 2  # where nothing else is said: behind one and two thirds


class ExitResNet(DynamicNet):
    """A trunk that an image may leave early, where the rule says so.

    `starts` are the first blocks behind the exits, by default behind one and two thirds: where
    stages end, if there are as many, as behind stages 1 and 2 of a CIFAR ResNet.

    There are W = E + 1 classifiers, counted from 0: the exits', and the trunk's own head. An image
    that leaves at one of them ran all that lies before it, heads of earlier exits included.
    `point` is the operating point of the rule that the network is set to; `at` gives the others.
    Modules that only training needs go into `training_only`; `inference_net` drops them.
    """

    passed_u: Tensor

    def __init__(
        self,
        backbone: Backbone,
        rule: ExitRule,
        *,
        starts: Sequence[int] | None = None,
        head: HeadKind | HeadMaker = "pooled",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.trunk: Trunk = backbone.build()
        self.starts = (0, *(backbone.thirds if starts is None else starts))
        assert rule.num_exits == len(self.starts) - 1
        if head == "convolution":
            backbone.require_maps(f"An exit with a {head} head")
        make = MAKERS[head] if isinstance(head, str) else head
        states = backbone.layout.states
        self.exits = nn.ModuleList(
            make(backbone.num_classes, states[start], e) for e, start in enumerate(self.starts[1:])
        ).to(memory_format=torch.channels_last)
        self.rule = rule
        self.training_only = nn.ModuleDict()
        self.point = rule.num_points // 2
        passed_u = torch.tensor([passed for _, passed in self._units()])
        self.register_buffer("passed_u", passed_u, persistent=False)

    @property
    def blocks(self) -> list[Block]:
        return blocks_of(self.trunk)

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """All classifiers, the trunk's head last."""
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
        return self._leaving(logits_wnk, *self._exits_taken(logits_wnk))

    def forward_all_on(self, x_nchw: Tensor) -> Output:
        logits_wnk = self.exit_logits(x_nchw)
        return self._leaving(logits_wnk, logits_wnk, self._none_leave(logits_wnk))

    def forward_permuted(self, x_nchw: Tensor, order_n: Tensor) -> Output:
        logits_wnk = self.exit_logits(x_nchw)
        answers_wnk, exit_n = self._exits_taken(logits_wnk)
        return self._leaving(logits_wnk, answers_wnk, exit_n[order_n])

    def execute(self, x_nchw: Tensor) -> Output:
        return Output(*self.run(x_nchw, split), {})

    def run(self, x_nchw: Tensor, branch: Branch) -> tuple[Tensor, Tensor]:
        return self._from(0, self.trunk.stem(x_nchw), branch)

    def states(self, x_nchw: Tensor) -> Iterator[Tensor]:
        """Yield the state at each classifier, (N, C, h, w); what is not read is not computed."""
        h_nchw = self.trunk.stem(x_nchw)
        for stretch in self.stretches():
            for block in stretch:
                h_nchw = block(h_nchw)
            yield h_nchw

    def exit_logits(self, x_nchw: Tensor) -> Tensor:
        """Return the logits of all classifiers, (W, N, K), none leaving."""
        return self._classified(self.states(x_nchw))

    def side_logits(self, x_nchw: Tensor) -> Tensor:
        """Return the logits of the exits alone, (E, N, K); the trunk gets no gradient, and what
        lies behind the last exit is not computed."""
        with torch.no_grad():
            states_e = list(islice(self.states(x_nchw), len(self.exits)))
        return self._classified(states_e)

    def answers(self, logits_wnk: Tensor) -> Tensor:
        """Return the answer at each classifier (W, N, K), from the logits of all."""
        return torch.stack([answer_nk for answer_nk, _ in self._asked(logits_wnk)])

    def stretches(self) -> list[list[Block]]:
        """Return the blocks up to each classifier, from the one before it."""
        blocks, ends = self.blocks, (*self.starts[1:], None)
        return [blocks[start:end] for start, end in zip(self.starts, ends, strict=True)]

    def _units(self) -> list[tuple[Unit, int]]:
        """Each unit with the number of exits that lie before it."""
        listed: list[tuple[Unit, int]] = []
        exits: list[tuple[Unit, int]] = []
        passed = 0
        last = len(self.blocks)
        first = [f"block{start}" if start < last else "head" for start in self.starts[1:]]
        for unit in trunk_units(self.trunk, self.backbone):
            if unit.name in first:
                name = f"exit{passed + 1}"
                head = Unit(name, self.exits[passed], unit.input_shape, True, "policy")
                exits += [(part, passed) for part in (head, *self.rule.units(passed))]
                passed += 1
            listed.append((unit, passed))
        exits += [(part, passed) for part in self.rule.units(passed)]
        return [(unit._replace(always_on=n == 0), n) for unit, n in (*listed, *exits)]

    def _none_leave(self, logits_wnk: Tensor) -> Tensor:
        last, count = self.rule.num_exits, logits_wnk.shape[1]
        return torch.full((count,), last, dtype=torch.int64, device=logits_wnk.device)

    def _asked(self, logits_wnk: Tensor) -> Iterator[tuple[Tensor, Carried]]:
        """Yield the answer at each classifier (N, K), and what the rule carries on from it."""
        carried: Carried = ()
        for exit_index, logits_nk in enumerate(logits_wnk):
            answer_nk, carried = self.rule.answer(logits_nk, carried, exit_index=exit_index)
            yield answer_nk, carried

    def _exits_taken(self, logits_wnk: Tensor) -> tuple[Tensor, Tensor]:
        """Return the answers (W, N, K), and where each image leaves, (N,) in 0 ... E."""
        asked = list(self._asked(logits_wnk))
        exit_n = self._none_leave(logits_wnk)
        for exit_index in reversed(range(self.rule.num_exits)):
            answer_nk, carried = asked[exit_index]
            exit_n = torch.where(
                self._leaves(exit_index, answer_nk.detach(), carried), exit_index, exit_n
            )
        return torch.stack([answer_nk for answer_nk, _ in asked]), exit_n

    def _leaves(self, exit_index: int, answer_nk: Tensor, carried: Carried) -> Tensor:
        return self.rule.leaves(answer_nk, carried, exit_index=exit_index, point=self.point)

    def _classified(self, states: Iterable[Tensor]) -> Tensor:
        found: list[Tensor] = []
        for exit_index, h_nchw in enumerate(states):
            found.append(self._classify(exit_index, h_nchw, *found[-1:]))
        return torch.stack(found)

    def _classify(self, exit_index: int, h_nchw: Tensor, *before: Tensor) -> Tensor:
        """Return the logits of a classifier; `before` are those of the one before it, if any."""
        head = self.heads[exit_index]
        read = [nk.detach() for nk in before] if isinstance(head, CascadingHead) else []
        logits_nk: Tensor = head(h_nchw, *read)
        return logits_nk

    def _leaving(self, logits_wnk: Tensor, answers_wnk: Tensor, exit_n: Tensor) -> Output:
        logits_nk = answers_wnk[exit_n, torch.arange(len(exit_n), device=exit_n.device)]
        terms = {"exit_logits_wnk": logits_wnk, "exit_n": exit_n}
        return Output(logits_nk, self._trace(exit_n), terms)

    def _trace(self, exit_n: Tensor) -> Tensor:
        return (self.passed_u <= exit_n[:, None]).float()

    def _from(
        self,
        exit_index: int,
        h_nchw: Tensor,
        branch: Branch,
        before: Sequence[Tensor] = (),
        carried: Carried = (),
    ) -> tuple[Tensor, Tensor]:
        """Continue with images that have not left before classifier `exit_index`."""
        for block in self.stretches()[exit_index]:
            h_nchw = block(h_nchw)
        logits_nk = self._classify(exit_index, h_nchw, *before)
        answer_nk, carried = self.rule.answer(logits_nk, carried, exit_index=exit_index)

        def leave(answer_nk: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
            return answer_nk, (self.passed_u <= exit_index).float().expand(answer_nk.shape[0], -1)

        def continue_(_: Tensor, h_nchw: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
            before, carried = rest[:handed], rest[handed:]
            return self._from(exit_index + 1, h_nchw, branch, before, carried)

        if exit_index == self.rule.num_exits:
            return leave(answer_nk)
        stays_n = ~self._leaves(exit_index, answer_nk, carried)
        handed = int(isinstance(self.heads[exit_index + 1], CascadingHead))
        rest = (*[logits_nk] * handed, *carried)
        answer_nk, executed_nu = branch(stays_n, continue_, leave, answer_nk, h_nchw, *rest)
        return answer_nk, executed_nu
