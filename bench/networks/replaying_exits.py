"""Networks with exits replayed from tapes: a stretch of blocks and its exit for each group size.

What replaying.py is for gates. After each exit but the last the host waits for how many stay.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from bench.networks.exits import ExitResNet
from bench.networks.replaying import Form, Group, LogitsAndTrace, rounded_up
from bench.networks.tapes import Record, Tape


class ExitForm(Form):
    """Stretch by stretch; whoever passes an exit has its logits overwritten at the next."""

    def __init__(self, net: ExitResNet, x_nchw: Tensor, record: Record) -> None:
        super().__init__(x_nchw)
        self._net, self._record = net, record
        device, count = x_nchw.device, self.count
        classes = net.backbone.num_classes
        self._logits_nk = torch.zeros(count + 1, classes, device=device)
        self._way_n = torch.zeros(count + 1, dtype=torch.int64, device=device)
        shapes = net.backbone.input_shapes
        self._groups = [
            Group(self.zeros(count, shapes[start]), torch.arange(count, device=device))
            for start in net.starts
        ]
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

    def _begin(self) -> None:
        self._groups[0].state_nchw.copy_(self._net.trunk.stem(self.x_nchw))

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
        h_mchw = self._groups[way].state_nchw[:size]
        for block in self._net.stretches()[way]:
            h_mchw = block(h_mchw)
        return h_mchw, self._net.heads[way](h_mchw)

    def _stretch(self, way: int, size: int) -> Tensor:
        """Run to way out `way`, write who comes by it, and put who stays first in the next group;
        return how many stay."""
        h_mchw, logits_mk = self._logits(way, size)
        place_m = self._groups[way].place_n[:size]
        self._logits_nk.index_copy_(0, place_m, logits_mk.to(self._logits_nk.dtype))
        self._way_n.index_fill_(0, place_m, way)
        if way == self._net.last:
            return place_m
        leaves_m = self._net.rule.leaves(logits_mk, exit_index=way, point=self._net.point)
        return self._groups[way + 1].put(h_mchw, place_m, ~leaves_m)
