"""Where exits may lie: the first block behind each, by how much of the network's cost comes before.

Owns no exit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from bench.errors import NotApplicable
from bench.networks.gated import trunk_units
from bench.networks.macs import macs_of
from bench.networks.trunk import Backbone

SIX_SHARES = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
"""Where Shallow-Deep Networks have their exits (Kaya et al., ICML 2019)."""


def behind_every_block(backbone: Backbone) -> tuple[int, ...]:
    """Return the places behind all blocks, the last one included.

    Raises:
        NotApplicable: there is no block.
    """
    if backbone.num_blocks == 0:
        raise NotApplicable(f"{backbone.name} has no block to put an exit behind.")
    return tuple(range(1, backbone.num_blocks + 1))


def nearest_to_shares(backbone: Backbone, shares: Sequence[float]) -> dict[int, float]:
    """Return the places between two blocks nearest to these shares of the dense network's MACs.

    Where two shares have the same nearest place, it is there once, with the nearer share.

    Raises:
        NotApplicable: there are no two blocks.
    """
    before = _shares_before_blocks(backbone)
    if not before:
        raise NotApplicable(f"{backbone.name} has {backbone.num_blocks} blocks: no exit fits in.")
    found: dict[int, float] = {}
    for share in shares:
        place = min(before, key=lambda b: abs(before[b] - share))
        known = found.get(place, share)
        found[place] = min(known, share, key=lambda s: abs(before[place] - s))
    return dict(sorted(found.items()))


def _shares_before_blocks(backbone: Backbone) -> dict[int, float]:
    units = trunk_units(backbone.without_memory(), backbone)
    total = list(accumulate(macs_of(unit, device=torch.device("meta")) for unit in units))
    column = {unit.name: column for column, unit in enumerate(units)}
    inner = range(1, backbone.num_blocks)
    return {b: total[column[f"block{b}"] - 1] / total[-1] for b in inner}
