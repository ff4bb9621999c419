"""Gated networks replayed from tapes: on an accelerator a launch takes longer than a small kernel.

The fourth form of the loop over the blocks; it must agree with `execute`, which is checked before
anything is timed. Shapes on a tape are fixed, so a block has a tape for each size that the group of
images running it is rounded up to. Who runs what is found out on the device; the host waits only
for how many: once a batch where decisions are made up front, else once a gate. Owns no recording.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bench.networks.execution import route_of, skipped
from bench.networks.gated import GatedResNet, block_columns
from bench.networks.policy import ByMeans, Decisions, UpFront
from bench.networks.tapes import Record, Tape

LogitsAndTrace = tuple[Tensor, Tensor]
_SIZES = 16  # into which a batch is divided: padding is at most a sixteenth of it
_MAX_PATTERNS = 64


class Form(ABC):
    """A network as tapes for one batch size; inputs are copied to where the tapes read them."""

    def __init__(self, x_nchw: Tensor) -> None:
        self.count = len(x_nchw)
        self.x_nchw = x_nchw.clone()

    def __call__(self, x_nchw: Tensor) -> LogitsAndTrace:
        """Return logits (N, K) and trace (N, U); the next call overwrites them."""
        self.x_nchw.copy_(x_nchw)
        return self._replay()

    def zeros(self, rows: int, shape: tuple[int, ...]) -> Tensor:
        """Return room for the states of `rows` images, of the shape (C, h, w)."""
        zeros_nchw = self.x_nchw.new_zeros(rows, *shape)
        return zeros_nchw.contiguous(memory_format=torch.channels_last)

    @abstractmethod
    def _replay(self) -> LogitsAndTrace: ...


class Replayed:
    """A network as tapes; they are made at the first call of each batch size, and once more where
    TF32 was switched since. Returns what a form returns."""

    def __init__(self, form: Callable[[Tensor], Form]) -> None:
        self._form = form
        self._forms: dict[tuple[int, bool], Form] = {}

    def __call__(self, x_nchw: Tensor) -> LogitsAndTrace:
        key = len(x_nchw), torch.backends.cudnn.allow_tf32
        if key not in self._forms:
            self._forms[key] = self._form(x_nchw)
        return self._forms[key](x_nchw)


class WholeForm(Form):
    """A network that decides nothing, on one tape."""

    def __init__(self, net: GatedResNet, x_nchw: Tensor, record: Record) -> None:
        super().__init__(x_nchw)
        self._tape, self._logits_nk = record(lambda: net.trunk(self.x_nchw))
        self._executed_nu = x_nchw.new_ones(self.count, len(net.units()))

    def _replay(self) -> LogitsAndTrace:
        self._tape()
        return self._logits_nk, self._executed_nu


class Choice(NamedTuple):
    """Which images run, column by column; all on the device.

    `rows_bn` are the images that do, then the first of them again and again: padding computes what
    is computed anyway.
    """

    open_nb: Tensor  # (N, B) bool
    rows_bn: Tensor  # (B, N) int64
    sizes_b: Tensor  # (B,) int64


class Asked(NamedTuple):
    """What came of a gate. The decisions as they stood then are kept because the next gate may read
    what is in them, and the memory of what nobody holds is used again."""

    choice: Choice
    left_behind: Decisions


def choice_of(open_nb: Tensor) -> Choice:
    """Return the choice that bools (N, B) describe."""
    sizes_b = open_nb.sum(dim=0)
    order_nb = torch.argsort(open_nb.to(torch.int8), dim=0, descending=True, stable=True)
    place_n1 = torch.arange(len(open_nb), device=open_nb.device)[:, None]
    rows_nb = torch.where(place_n1 < sizes_b, order_nb, order_nb[:1])
    return Choice(open_nb, rows_nb.T.contiguous(), sizes_b)


def rounded_up(size: int, *, count: int) -> int:
    """Return the size of the tape for `size` of `count` images."""
    step = max(1, count // _SIZES)
    return min(count, -(-size // step) * step)


class Group(NamedTuple):
    """Images of a batch of N that go on, first in both; for batches that only shrink.

    Behind the last of them stands padding; its place is N, a row that nobody reads.
    """

    state_nchw: Tensor
    place_n: Tensor  # (N,) int64: where they stand in the batch

    def put(self, h_mchw: Tensor, place_m: Tensor, go_on_m: Tensor) -> Tensor:
        """Replace the group by those of M images that go on; return how many they are, (1,)."""
        size, count = len(place_m), len(self.place_n)
        choice = choice_of((go_on_m & (place_m < count))[:, None])
        rows_m = choice.rows_bn[0]
        self.state_nchw[:size].copy_(h_mchw[rows_m])
        rank_m = torch.arange(size, device=place_m.device)
        self.place_n[:size].copy_(torch.where(rank_m < choice.sizes_b, place_m[rows_m], count))
        return choice.sizes_b


def gated_form(net: GatedResNet, x_nchw: Tensor, record: Record) -> Form:
    """Return the tapes of a gated network for batches like `x_nchw` (N, C, H, W)."""
    decisions = net.policy.begin(x_nchw, net.trunk.stem(x_nchw))
    kind = UpFrontForm if isinstance(decisions, UpFront) else PerUnitForm
    return kind(net, x_nchw, record)


class GatedForm(Form):
    """Stem and decisions; each block for the groups that run it; the head.

    `states[b]` (N, C, h, w) is what block b reads and, where whoever skips it keeps its state, also
    what it writes.
    """

    def __init__(self, net: GatedResNet, x_nchw: Tensor, record: Record) -> None:
        super().__init__(x_nchw)
        self.net, self.record = net, record
        self.route = route_of(net.blocks, net.merge)
        self.states = self._buffers()
        device = x_nchw.device
        self._columns_b = torch.tensor(block_columns(net.units()), device=device)
        self._executed_nu = torch.ones(self.count, len(net.units()), device=device)
        self._tapes: dict[tuple[int, int | None], Tape] = {}

    def begin(self) -> Decisions:
        """Run the stem and open the decisions; to be recorded."""
        stem_nchw = self.net.trunk.stem(self.x_nchw)
        self.states[0].copy_(stem_nchw)
        return self.net.policy.begin(self.x_nchw, stem_nchw)

    def run(self, b: int, rows_n: Tensor | None, size: int) -> None:
        """Replay block b for `size` images, the first of `rows_n`; None: all or none of them."""
        step = self.route[b]
        if size < self.count and not step.keeps:
            self._tape(b, 0, None)()
        if size == self.count:
            self._tape(b, None, None)()
        elif size:
            self._tape(b, rounded_up(size, count=self.count), rows_n)()

    def finish(self, state_nchw: Tensor, open_nb: Tensor) -> LogitsAndTrace:
        """Run the head and write the trace; to be recorded."""
        self._executed_nu.index_copy_(1, self._columns_b, open_nb.to(self._executed_nu.dtype))
        return self.net.trunk.head(state_nchw), self._executed_nu

    def _buffers(self) -> list[Tensor]:
        shapes = [*self.net.backbone.input_shapes, self.net.backbone.stages[-1].shape]
        states = [self.zeros(self.count, shapes[0])]
        for step, shape in zip(self.route, shapes[1:], strict=True):
            states.append(states[-1] if step.keeps else self.zeros(self.count, shape))
        return states

    def _tape(self, b: int, size: int | None, rows_n: Tensor | None) -> Tape:
        """Return the tape of block b for a group: None, all images; 0, those who skip it."""
        if (b, size) not in self._tapes:
            written_nchw = self.states[b + 1]

            def work() -> None:
                result_mchw = self._result_of(b, size, rows_n)
                if rows_n is None:
                    written_nchw.copy_(result_mchw)
                else:
                    written_nchw.index_copy_(0, rows_n[:size], result_mchw)

            # A tape may be made in the middle of a batch: warming up must not write.
            warm = partial(self._result_of, b, size, rows_n)
            self._tapes[b, size], _ = self.record(work, warm=warm)
        return self._tapes[b, size]

    def _result_of(self, b: int, size: int | None, rows_n: Tensor | None) -> Tensor:
        step, read_nchw = self.route[b], self.states[b]
        if size == 0:
            return skipped(step.block, read_nchw, self.net.merge)
        ran_mchw: Tensor = step.block(read_nchw if rows_n is None else read_nchw[rows_n[:size]])
        return ran_mchw


class UpFrontForm(GatedForm):
    """Decisions up front: one wait a batch. Where all images of it run the same blocks, as a
    single image does, the rest is one tape, if that pattern is among the first that came."""

    def __init__(self, net: GatedResNet, x_nchw: Tensor, record: Record) -> None:
        super().__init__(net, x_nchw, record)
        device = x_nchw.device
        self._fixed_b = torch.tensor(net.policy.always_on, device=device)
        self._exists_b = torch.tensor([not step.removed for step in self.route], device=device)
        self._start, self._choice = record(self._choose)
        self._patterns: dict[tuple[int, ...], tuple[Tape, LogitsAndTrace]] = {}
        self._end, self._result = record(lambda: self.finish(self.states[-1], self._choice.open_nb))

    def _choose(self) -> Choice:
        decisions = self.begin()
        assert isinstance(decisions, UpFront)
        return choice_of(((decisions.gates_nb > 0.5) | self._fixed_b) & self._exists_b)

    def _replay(self) -> LogitsAndTrace:
        self._start()
        sizes = tuple(self._choice.sizes_b.tolist())
        if all(size in (0, self.count) for size in sizes) and self._has_pattern(sizes):
            tape, result = self._patterns[sizes]
            tape()
            return result
        for b, size in enumerate(sizes):
            self.run(b, self._choice.rows_bn[b], size)
        self._end()
        return self._result

    def _has_pattern(self, sizes: tuple[int, ...]) -> bool:
        if sizes not in self._patterns and len(self._patterns) < _MAX_PATTERNS:
            self._patterns[sizes] = self.record(lambda: self._run_pattern(sizes))
        return sizes in self._patterns

    def _run_pattern(self, sizes: tuple[int, ...]) -> LogitsAndTrace:
        state_nchw = self.states[0]
        for step, size in zip(self.route, sizes, strict=True):
            if size:
                state_nchw = step.block(state_nchw)
            elif not step.keeps:
                state_nchw = skipped(step.block, state_nchw, self.net.merge)
        return self.finish(state_nchw, self._choice.open_nb)


class PerUnitForm(GatedForm):
    """Decisions block by block: one wait for each gate."""

    def __init__(self, net: GatedResNet, x_nchw: Tensor, record: Record) -> None:
        super().__init__(net, x_nchw, record)
        self._start, decisions = record(self.begin)
        self._opened = copy.copy(decisions)  # for the memory of what is in them, see Asked
        # In order: what a gate leaves for the next one, as an LSTM does, stays where it is.
        self._gates = [self._gate(decisions, b) for b in range(len(self.route))]
        opens = [self._open(b) for b in range(len(self.route))]
        self._end, self._result = record(
            lambda: self.finish(self.states[-1], torch.stack(opens, dim=1))
        )

    def _gate(self, decisions: Decisions, b: int) -> tuple[Tape, Asked] | None:
        if self.net.policy.always_on[b]:
            return None
        return self.record(
            lambda: self._ask(decisions, b), warm=lambda: self._ask(copy.copy(decisions), b)
        )

    def _ask(self, decisions: Decisions, b: int) -> Asked:
        choice = choice_of(is_open(decisions, b, self.states[b])[:, None])
        return Asked(choice, copy.copy(decisions))

    def _open(self, b: int) -> Tensor:
        gate = self._gates[b]
        if gate is None or self.route[b].removed:
            runs = not self.route[b].removed
            return torch.full((self.count,), runs, device=self.x_nchw.device)
        return gate[1].choice.open_nb[:, 0]

    def _replay(self) -> LogitsAndTrace:
        self._start()
        for b, (step, gate) in enumerate(zip(self.route, self._gates, strict=True)):
            rows_n, size = None, self.count
            if gate is not None:
                tape, (choice, _) = gate
                tape()
                rows_n, size = choice.rows_bn[0], int(choice.sizes_b)
            self.run(b, rows_n, 0 if step.removed else size)
        self._end()
        return self._result


def is_open(decisions: Decisions, b: int, state_nchw: Tensor) -> Tensor:
    """Return who runs block b, (N,) bool, without waiting for it."""
    if isinstance(decisions, ByMeans):
        sum_nc = state_nchw.sum(dim=(2, 3))
        open_n = decisions.is_open(b, sum_nc, state_nchw.shape[2] * state_nchw.shape[3])
    else:
        gate_n = decisions.gate(b, state_nchw)
        open_n = None if gate_n is None else gate_n > 0.5
    assert open_n is not None, "a block whose policy does not call it always on has a gate"
    return open_n
