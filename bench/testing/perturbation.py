"""Shakes what decides until a network decides differently for different images.

After a few steps of training most policies still say the same of every image, and a check on such
a network would prove nothing. Owns no check.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.measure.modes import evaluating
from bench.networks.unit import DynamicNet
from bench.testing import synthetic

State = Mapping[str, Tensor]
Settle = Callable[[], Sequence[DynamicNet]]
_SCALES = (0.1, 0.3, 1.0, 3.0)
_IMAGES = 32
_HAIR = 1e-5
_PATIENCE = 12
_HALVINGS = 20


@dataclass(frozen=True, slots=True)
class Spread:
    """How decisions vary over some images: the mean share of gated units run, distinct masks.

    `firm`: they stay the same if the images change by a hair, so that rounding cannot turn them.
    """

    share: float
    distinct: int
    firm: bool = True

    @property
    def balanced(self) -> bool:
        """Whether masks differ, and units are neither nearly all on nor nearly all off."""
        return self.differs and 0.1 < self.share < 0.9

    @property
    def firmly_mixed(self) -> bool:
        return self.balanced and self.firm and self.distinct > 2

    @property
    def rank(self) -> tuple[bool, bool, bool, int]:
        """What orders spreads: those that prove most come last."""
        return self.firmly_mixed, self.balanced and self.firm, self.balanced, self.distinct

    @property
    def differs(self) -> bool:
        return self.distinct > 1


def gated_columns(net: DynamicNet) -> list[int]:
    """Return the columns of the trace whose units do not always run."""
    return [column for column, unit in enumerate(net.units()) if unit.gated]


def spread_of(net: DynamicNet) -> Spread:
    """Return how the decisions of `net` vary over synthetic images."""
    x_nchw = synthetic.images(_IMAGES, seed=77)
    with evaluating(net):
        output = net(x_nchw)
        if not bool(torch.isfinite(output.logits).all()):
            return Spread(0.0, 0)
        gates_ng = output.executed[:, gated_columns(net)]
        distinct = len(gates_ng.unique(dim=0))
        nearly = net(x_nchw * (1 + _HAIR)) if distinct > 1 else output
    firm = torch.equal((nearly.executed > 0.5), (output.executed > 0.5))
    return Spread(float(gates_ng.mean()), distinct, firm)


def perturb(net: DynamicNet, settle: Settle) -> Spread:
    """Shake `net` in place until it decides by the image; return how its decisions then vary.

    `settle` chooses thresholds anew, if there are any, and returns the networks of all operating
    points. What lies outside of `trunk` and `training_only` is shaken first, then all parameters,
    then buffers too: thresholds may be the only thing that decides.
    """
    search = _Search(net, settle)
    for tensors, rounds in _groups(net):
        search.shake(tensors, rounds)
        search.halve()
        if search.best.differs:
            break
    net.load_state_dict(search.kept)
    settle()
    return search.best


class _Search:
    """The best state found so far, and one on either side: where most units run, and few."""

    def __init__(self, net: DynamicNet, settle: Settle) -> None:
        self.net, self.settle = net, settle
        self.original = self.kept = copy.deepcopy(net.state_dict())
        self.best = Spread(0.0, 0)
        self.on: State | None = None
        self.off: State | None = None
        self.draws = torch.Generator().manual_seed(9)
        self._judge()

    def shake(self, tensors: Sequence[Tensor], rounds: int) -> None:
        """Try random changes of growing and shrinking size."""
        for attempt, scale in enumerate(_SCALES * rounds):
            # Some networks know two masks only, and some decide by the last bit of an image.
            if self.best.firmly_mixed or (attempt >= _PATIENCE and self.best.balanced):
                return
            self.net.load_state_dict(self.original)
            _shake(tensors, scale, self.draws)
            self._judge()

    def halve(self) -> None:
        """Search between the two sides: on the way some images change before others do."""
        for _ in range(_HALVINGS):
            if self.best.balanced or self.on is None or self.off is None:
                return
            self.net.load_state_dict(_between(self.on, self.off))
            self._judge()

    def _judge(self) -> None:
        state = copy.deepcopy(self.net.state_dict())
        found = max(map(spread_of, self.settle()), key=lambda spread: spread.rank)
        if found.distinct > 0 and found.share >= 0.5:
            self.on = state
        elif found.distinct > 0:
            self.off = state
        if found.rank > self.best.rank:
            self.best, self.kept = found, state


def _between(first: State, second: State) -> State:
    return {
        key: torch.lerp(value, second[key], 0.5) if value.is_floating_point() else value
        for key, value in first.items()
    }


def _groups(net: DynamicNet) -> Iterator[tuple[list[Tensor], int]]:
    named = list(net.named_parameters())
    apart: list[Tensor] = [
        p for name, p in named if not name.startswith(("trunk.", "training_only."))
    ]
    if apart:
        yield apart, 8
    everything: list[Tensor] = [p for name, p in named if not name.startswith("training_only.")]
    if everything:
        yield everything, 5
    thresholds = [
        buffer
        for module in net.modules()
        if not isinstance(module, nn.modules.batchnorm._BatchNorm)
        for buffer in module.buffers(recurse=False)
        if buffer.is_floating_point()
    ]
    if thresholds:
        yield [*everything, *thresholds], 10


@torch.no_grad()
def _shake(tensors: Sequence[Tensor], scale: float, draws: torch.Generator) -> None:
    for tensor in tensors:
        size = max(1.0, float(tensor.abs().mean())) if tensor.numel() else 1.0
        tensor.add_(scale * size * torch.randn(tensor.shape, generator=draws))
