"""Networks with exits replayed from tapes: a stretch of blocks and its exit for each group size.

What replaying.py is for gates. After each exit but the last the host waits for how many stay.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bench.networks.exits import ExitResNet
from bench.networks.replaying import Form, LogitsAndTrace, choice_of, rounded_up
from bench.networks.tapes import Record, Tape


class _Group(NamedTuple):
    """Images at the start of a stretch: their states, and their places in the batch, at most N.

    Behind the last image stands padding; its place is N, a row that nobody reads.
    """

    state_mchw: Tensor
    place_m: Tensor


class ExitForm(Form):
    """Stretch by stretch; whoever passes an exit has its logits overwritten at the next."""

    def __init__(self, net: ExitResNet, x_nchw: Tensor, record: Record) -> None:
        super().__init__(x_nchw)
        self._net, self._record = net, record
        device, count = x_nchw.device, self.count
        classes = net.backbone.num_classes
        self._logits_nk = torch.zeros(count + 1, classes, device=device)
        self._way_n = torch.zeros(count + 1, dtype=torch.int64, device=device)
        self._groups = [self._buffer(shape) for shape in self._shapes()]
        self._tapes: dict[tuple[int, int], tuple[Tape, Tensor]] = {}
        self._start, _ = record(self._begin)
        self._end, self._executed_nu = record(self._trace)

    def _replay(self) -> LogitsAndTrace:
        self._start()
        size = self.count
        for way in range(self._net.last + 1):
            tape, staying = self._tape(way, rounded_up(size, count=self.count))
            tape()
            if way == self._net.last:
                break
            size = int(staying)
            if size == 0:
                break
        self._end()
        return self._logits_nk[: self.count], self._executed_nu

    def _shapes(self) -> list[tuple[int, ...]]:
        """What the first block of each stretch reads."""
        shapes = self._net.backbone.input_shapes
        return [shapes[start] for start in self._net.starts]

    def _buffer(self, shape: tuple[int, ...]) -> _Group:
        state_nchw = self.x_nchw.new_zeros(self.count, *shape)
        place_n = torch.arange(self.count, device=self.x_nchw.device)
        return _Group(state_nchw.contiguous(memory_format=torch.channels_last), place_n)

    def _begin(self) -> None:
        self._groups[0].state_mchw.copy_(self._net.trunk.stem(self.x_nchw))

    def _trace(self) -> Tensor:
        passed_u, way_n = self._net.passed_u, self._way_n[: self.count]
        return (passed_u <= way_n[:, None]).float()

    def _tape(self, way: int, size: int) -> tuple[Tape, Tensor]:
        if (way, size) not in self._tapes:
            self._tapes[way, size] = self._record(
                partial(self._stretch, way, size), warm=partial(self._logits, way, size)
            )
        return self._tapes[way, size]

    def _logits(self, way: int, size: int) -> tuple[Tensor, Tensor]:
        """Return the states and the logits at way out `way` of a group of `size`."""
        h_mchw = self._groups[way].state_mchw[:size]
        for block in self._net.stretches()[way]:
            h_mchw = block(h_mchw)
        return h_mchw, self._net.heads[way](h_mchw)

    def _stretch(self, way: int, size: int) -> Tensor:
        """Run to way out `way`, write who comes by it, and put who stays first in the next group;
        return how many stay."""
        h_mchw, logits_mk = self._logits(way, size)
        place_m = self._groups[way].place_m[:size]
        self._logits_nk.index_copy_(0, place_m, logits_mk.to(self._logits_nk.dtype))
        self._way_n.index_fill_(0, place_m, way)
        if way == self._net.last:
            return place_m
        leaves_m = self._net.rule.leaves(logits_mk, exit_index=way, point=self._net.point)
        stays = choice_of((~leaves_m & (place_m < self.count))[:, None])
        rows_m, behind = stays.rows_bn[0], self._groups[way + 1]
        rank_m = torch.arange(size, device=place_m.device)
        behind.state_mchw[:size].copy_(h_mchw[rows_m])
        padded_m = torch.where(rank_m < stays.sizes_b, place_m[rows_m], self.count)
        behind.place_m[:size].copy_(padded_m)
        return stays.sizes_b
