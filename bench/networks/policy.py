"""Where decisions come from: the interface between a method and the loop over the blocks.

A policy says which blocks are gated and opens a `Decisions` for one batch; the loops in
execution.py ask it block by block. Up-front policies know all answers before the first block
runs, per-unit policies read each block's input. Owns no loop and no backbone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from bench.errors import PluginError
from bench.networks.states import States
from bench.networks.trunk import pool
from bench.networks.unit import Unit

Gates = Sequence[float]  # of one block: one number per image


class Decisions(ABC):
    """The decisions of one batch, asked for in the order of the blocks."""

    @abstractmethod
    def gate(self, index: int, h_nchw: Tensor) -> Tensor | None:
        """Return the gate (N,) of block `index`, or None for a block that always runs.

        In training it may be soft or carry a straight-through gradient; in eval it is 0 or 1.
        `h_nchw` is the input of the block; the skipping loop may overwrite it later, so what is
        to be remembered of it must be computed now.
        """

    def hard_gates(self, index: int, states: States) -> Gates | None:
        """Return `gate` on the host, where its answer is 0 or 1; for the skipping loop."""
        return _hard(self.gate(index, states.all()))

    def terms(self) -> Mapping[str, Tensor]:
        """Return what the loss of the method needs."""
        return {}


class ByMeans(Decisions):
    """Decisions that read a state only through its mean over positions, as most gates do.

    The skipping loop then touches the states of those images alone that ran the block before.
    """

    @abstractmethod
    def gate_of(self, index: int, mean_nc: Tensor) -> Tensor | None:
        """Return what `gate` returns, from the mean (N, C) of the input of the block."""

    def gate(self, index: int, h_nchw: Tensor) -> Tensor | None:
        return self.gate_of(index, pool(h_nchw))

    def hard_gates(self, index: int, states: States) -> Gates | None:
        return _hard(self.gate_of(index, states.means()))


class UpFront(Decisions):
    """All gates of a batch, known before the first block: gates_nb is (N, B)."""

    def __init__(
        self,
        gates_nb: Tensor,
        *,
        always_on: Sequence[bool],
        terms: Mapping[str, Tensor] | None = None,
    ) -> None:
        if gates_nb.ndim != 2:
            raise PluginError(
                f"The gates have shape {tuple(gates_nb.shape)}, not (N, B).",
                hint="UpFront takes one number per image and block: flatten(1), or a squeeze.",
            )
        self.gates_nb = gates_nb
        self.always_on = always_on
        self._terms = terms or {}
        self._hard_bn: list[Gates] | None = None

    def gate(self, index: int, h_nchw: Tensor) -> Tensor | None:
        del h_nchw
        return None if self.always_on[index] else self.gates_nb[:, index]

    def hard_gates(self, index: int, states: States) -> Gates | None:
        if self._hard_bn is None:
            # All at once: one synchronisation for the whole batch.
            self._hard_bn = (self.gates_nb > 0.5).T.tolist()
        return None if self.always_on[index] else self._hard_bn[index]

    def terms(self) -> Mapping[str, Tensor]:
        return self._terms


class Policy(nn.Module, ABC):
    """Decides which blocks run. `always_on[b]` is True for a block without a gate."""

    def __init__(self, always_on: Sequence[bool]) -> None:
        super().__init__()
        self.always_on = tuple(always_on)

    @property
    def gated(self) -> tuple[int, ...]:
        """The indices of the blocks that have a gate."""
        return tuple(b for b, fixed in enumerate(self.always_on) if not fixed)

    @abstractmethod
    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> Decisions:
        """Open the decisions of one batch, from the images and the output of the stem."""

    @abstractmethod
    def units(self) -> Sequence[Unit]:
        """Return what deciding costs, as units of role `policy`."""

    def spread(self, gated_ng: Tensor) -> Tensor:
        """Place the columns of the gated blocks among all: (N, G) -> (N, B), ones elsewhere."""
        return among_ones(gated_ng, [not fixed for fixed in self.always_on])


class EverythingRuns(Policy):
    """No decision at all: the dense network, at no cost."""

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        gates = torch.ones(x_nchw.shape[0], len(self.always_on), device=x_nchw.device)
        return UpFront(gates, always_on=self.always_on)

    def units(self) -> Sequence[Unit]:
        return ()


def _hard(gate_n: Tensor | None) -> Gates | None:
    return None if gate_n is None else (gate_n > 0.5).tolist()


def among_ones(columns_nk: Tensor, taken: Sequence[bool]) -> Tensor:
    """Place columns (N, K) where `taken` is True, in order, and ones elsewhere: (N, len(taken))."""
    if all(taken):
        return columns_nk
    # In runs: a list of indices would have to travel to the device in each call.
    parts, begin = [], 0
    for given, run in groupby(taken):
        width = len(list(run))
        if given:
            parts.append(columns_nk[:, begin : begin + width])
            begin += width
        else:
            # The shape, not len(): where this is traced, the number of images is no constant.
            parts.append(columns_nk.new_ones(columns_nk.shape[0], width))
    return torch.cat(parts, dim=1)
