"""Where decisions come from: the interface between a method and the loop over the blocks.

A policy says which blocks are gated and opens a `Decisions` for one batch; the loops in
execution.py ask it block by block. Up-front policies know all answers before the first block
runs, per-unit policies read each block's input. Owns no loop and no backbone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from bench.errors import PluginError
from bench.networks.unit import Unit


class Decisions(ABC):
    """The decisions of one batch, asked for in the order of the blocks."""

    @abstractmethod
    def gate(self, index: int, h_nchw: Tensor) -> Tensor | None:
        """Return the gate (N,) of block `index`, or None for a block that always runs.

        Or a gate for each position (N, 1, h, w) of what its residual gives: then the residual runs
        where these are 1, which it can if it is a `LocalResidual` (bench.networks.local).

        In training it may be soft or carry a straight-through gradient; in eval it is 0 or 1.
        `h_nchw` is the input of the block; the skipping loop may overwrite it later, so what is
        to be remembered of it must be computed now.
        """

    def on_host(self) -> Decisions:
        """Return these decisions where the host need not wait for each, if that can be."""
        return self

    def terms(self) -> Mapping[str, Tensor]:
        """Return what the loss of the method needs."""
        return {}


class GivenGates(Decisions):
    """Gates that are known, one for each block; None: it always runs."""

    def __init__(self, gates: Sequence[Tensor | None]) -> None:
        self.gates = gates

    def gate(self, index: int, h_nchw: Tensor) -> Tensor | None:
        return self.gates[index]


class RecordedDecisions(Decisions):
    """The decisions of others, kept in `gates` as they are taken."""

    def __init__(self, inner: Decisions) -> None:
        self.inner = inner
        self.gates: list[Tensor | None] = []

    def gate(self, index: int, h_nchw: Tensor) -> Tensor | None:
        self.gates.append(self.inner.gate(index, h_nchw))
        return self.gates[-1]


class BlockByBlock(Decisions):
    """Gates that `decide` gives one by one, from the index and the input of a block that has one.

    Where all are (N,), they are the term `gates_ng` (N, G).
    """

    def __init__(self, policy: Policy, decide: Callable[[int, Tensor], Tensor]) -> None:
        self.always_on, self.decide = policy.always_on, decide
        self.gates: list[Tensor] = []

    def gate(self, index: int, h_nchw: Tensor) -> Tensor | None:
        if self.always_on[index]:
            return None
        self.gates.append(self.decide(index, h_nchw))
        return self.gates[-1]

    def terms(self) -> Mapping[str, Tensor]:
        if not self.gates or any(gate.ndim > 1 for gate in self.gates):
            return {}
        return {"gates_ng": torch.stack(self.gates, dim=1)}


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

    def gate(self, index: int, h_nchw: Tensor) -> Tensor | None:
        return None if self.always_on[index] else self.gates_nb[:, index]

    def on_host(self) -> UpFront:
        # All at once: one synchronisation for the whole batch.
        return UpFront(self.gates_nb.cpu(), always_on=self.always_on, terms=self._terms)

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


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Return the numbers of `hard`, exactly, with the gradient of `soft`, if it has one."""
    hard = hard.to(soft.dtype)
    return hard + (soft - soft.detach()) if soft.requires_grad else hard


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
