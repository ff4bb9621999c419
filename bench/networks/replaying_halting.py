"""Networks whose images halt, replayed from tapes: each block and its score for each group size.

What replaying.py is for gates; a group only shrinks within a stage. After each score the host waits
for how many have not halted. Positions that halt have no such form.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bench.networks.halting import HaltingResNet, is_dead
from bench.networks.pondering import Remainder
from bench.networks.replaying import Form, Group, LogitsAndTrace, rounded_up
from bench.networks.resnet import Stage
from bench.networks.tapes import Record, Tape


class _Pond(NamedTuple):
    """Who has not halted in a stage; by place in the batch, what is left of the weight 1, and the
    sum so far."""

    group: Group
    left: Tensor  # (N + 1, 1, 1, 1)
    total: Tensor  # (N + 1, C, h, w)


class HaltingForm(Form):
    """Stage by stage; `policy` is one by which whole images halt."""

    def __init__(self, net: HaltingResNet, x_nchw: Tensor, record: Record) -> None:
        super().__init__(x_nchw)
        self._net, self._record = net, record
        self._executed_nu = torch.zeros(self.count + 1, len(net.columns), device=x_nchw.device)
        self._ponds = [self._pond(stage) for stage in net.policy.stages]
        self._tapes: dict[tuple[int, int, str], tuple[Tape, Tensor]] = {}
        self._start, self._stem_nchw = record(self._begin)
        self._end, self._logits_nk = record(lambda: net.trunk.head(self._outcome(-1)))

    def _replay(self) -> LogitsAndTrace:
        self._start()
        for number in range(len(self._ponds)):
            self._run_stage(number)
        self._end()
        return self._logits_nk, self._executed_nu[: self.count]

    def _run_stage(self, number: int) -> None:
        first, *later = self._net.policy.stages[number].blocks
        size = self._advance(number, first, self.count)
        last = first
        for b in later:
            if size == 0 or is_dead(self._net.blocks[b]):
                break
            size, last = self._advance(number, b, size), b
        if size:
            self._tape(number, last, size, "finish")[0]()

    def _advance(self, number: int, b: int, size: int) -> int:
        """Run block b and its score; return how many have not halted."""
        tape, staying = self._tape(number, b, size, "advance")
        tape()
        return int(staying) if self._net.policy.is_scored(b) else size

    def _tape(self, number: int, b: int, size: int, what: str) -> tuple[Tape, Tensor]:
        size = rounded_up(size, count=self.count)
        if (b, size, what) not in self._tapes:
            work = self._finish if what == "finish" else self._run_block
            warm = partial(self._states, number, b, size)
            self._tapes[b, size, what] = self._record(partial(work, number, b, size), warm=warm)
        return self._tapes[b, size, what]

    def _begin(self) -> Tensor:
        self._executed_nu.copy_(self._net.always_on_u.float().expand_as(self._executed_nu))
        for pond in self._ponds:
            pond.left.fill_(1)
            pond.total.zero_()
            torch.arange(self.count, out=pond.group.place_n)
        stem_nchw: Tensor = self._net.trunk.stem(self.x_nchw)
        return stem_nchw

    def _outcome(self, number: int) -> Tensor:
        """Return the output of a stage, (N, C, h, w)."""
        return self._ponds[number].total[: self.count]

    def _states(self, number: int, b: int, size: int) -> tuple[Tensor, Tensor | None]:
        """Return the states behind block b and the scores there, for a group of `size`."""
        if b == self._net.policy.stages[number].blocks[0]:
            read_mchw = self._outcome(number - 1) if number else self._stem_nchw
        else:
            read_mchw = self._ponds[number].group.state_nchw[:size]
        h_mchw = self._net.blocks[b](read_mchw)
        scored = self._net.policy.is_scored(b)
        return h_mchw, self._net.policy.score(b, h_mchw) if scored else None

    def _run_block(self, number: int, b: int, size: int) -> Tensor:
        pond, first = self._ponds[number], self._net.policy.stages[number].blocks[0]
        place_m = pond.group.place_n[:size]
        h_mchw, scores = self._states(number, b, size)
        if b != first:
            for name in self._net.policy.shares(b, torch.ones_like(place_m)):
                self._executed_nu[:, self._net.columns[name]].index_fill_(0, place_m, 1)
        if scores is None:
            pond.group.state_nchw[:size].copy_(h_mchw)
            return place_m
        left = Remainder(pond.left[place_m], eps=self._net.policy.eps)
        pond.total.index_add_(0, place_m, left.weigh(scores) * h_mchw)
        pond.left.index_copy_(0, place_m, left.left)
        return pond.group.put(h_mchw, place_m, left.active.flatten())

    def _finish(self, number: int, b: int, size: int) -> Tensor:
        """Give what is left to the states behind block b."""
        group, left, total = self._ponds[number]
        place_m = group.place_n[:size]
        total.index_add_(0, place_m, left[place_m] * group.state_nchw[:size])
        return place_m

    def _pond(self, stage: Stage) -> _Pond:
        count, device = self.count, self.x_nchw.device
        return _Pond(
            Group(self.zeros(count, stage.shape), torch.arange(count, device=device)),
            self.x_nchw.new_ones(count + 1, 1, 1, 1),
            self.zeros(count + 1, stage.shape),
        )
