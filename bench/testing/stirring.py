"""Shakes what decides until a network decides differently for different images.

After a few steps of training most policies still say the same of every image, and a check on such
a network would prove nothing. Owns no check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.measure.modes import evaluating
from bench.networks.unit import DynamicNet
from bench.testing import made_up

Settle = Callable[[], Sequence[DynamicNet]]
_SCALES = (0.1, 0.3, 1.0, 3.0)
_IMAGES = 32
_HAIR = 1e-5
_PATIENCE = 12


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
    """Return how the decisions of `net` vary over made-up images."""
    x_nchw = made_up.images(_IMAGES, seed=77)
    with evaluating(net):
        output = net(x_nchw)
        if not bool(torch.isfinite(output.logits).all()):
            return Spread(0.0, 0)
        gates_ng = output.executed[:, gated_columns(net)]
        distinct = len(gates_ng.unique(dim=0))
        nearly = net(x_nchw * (1 + _HAIR)) if distinct > 1 else output
    firm = torch.equal((nearly.executed > 0.5), (output.executed > 0.5))
    return Spread(float(gates_ng.mean()), distinct, firm)


def stir(net: DynamicNet, settle: Settle) -> Spread:
    """Shake `net` in place until it decides by the image; return how its decisions then vary.

    `settle` chooses thresholds anew, if there are any, and returns the networks of all operating
    points. What lies outside of `trunk` and `training_only` is shaken first, then all parameters,
    then buffers too: thresholds may be the only thing that decides.
    """
    best, original = _widest(settle()), _copied(net)
    kept = original
    draws = torch.Generator().manual_seed(9)
    for tensors, rounds in _groups(net):
        for attempt, scale in enumerate(_SCALES * rounds):
            # Some networks know two masks only, and some decide by the last bit of an image.
            if best.firmly_mixed or (attempt >= _PATIENCE and best.balanced):
                break
            net.load_state_dict(original)
            _shake(tensors, scale, draws)
            found = _widest(settle())
            if found.rank > best.rank:
                best, kept = found, _copied(net)
        if best.differs:
            break
    net.load_state_dict(kept)
    settle()
    return best


def _groups(net: DynamicNet) -> Iterator[tuple[list[Tensor], int]]:
    named = list(net.named_parameters())
    apart: list[Tensor] = [
        p for name, p in named if not name.startswith(("trunk.", "training_only."))
    ]
    if apart:
        yield apart, 20
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
        tensor.add_(scale * torch.randn(tensor.shape, generator=draws))


def _widest(nets: Sequence[DynamicNet]) -> Spread:
    best = Spread(0.0, 0)
    for net in nets:
        found = spread_of(net)
        best = max(best, found, key=lambda spread: spread.rank)
        if best.firmly_mixed:
            break
    return best


def _copied(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in net.state_dict().items()}
