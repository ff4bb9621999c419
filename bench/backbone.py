"""What a plugin for a backbone imports: the contract, and networks of known structures."""

from __future__ import annotations

from bench.networks.library_trunks import Wrapped, trunk_of
from bench.networks.residuals import AttentionResidual, TokenResidual
from bench.networks.trunk import Backbone, Block, Family, Pool, Trunk, pool

__all__ = [
    "AttentionResidual",
    "Backbone",
    "Block",
    "Family",
    "Pool",
    "TokenResidual",
    "Trunk",
    "Wrapped",
    "pool",
    "trunk_of",
]
