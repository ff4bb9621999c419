"""Do the blocks that run often also have the larger gradient? In numbers and in words.

Reads what bench.measure.gradients left on record; owns no drawing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from bench.analysis.statistics import rank_correlation, t_quantile
from bench.records.record import PointRecord

_FEWEST = 4


class Together(NamedTuple):
    """Spearman's correlation of rate and gradient over `blocks` gated blocks; None: no number."""

    correlation: float | None
    blocks: int


def rates_and_gradients(point: PointRecord) -> Together:
    """Return how rates and gradients go together over the gated blocks that have both."""
    names = [b for b in point.gated_blocks if b in point.block_gradients and b in point.block_rates]
    rates = [point.block_rates[name] for name in names]
    gradients = [point.block_gradients[name] for name in names]
    if len(names) < _FEWEST:
        return Together(None, len(names))
    return Together(rank_correlation(np.array(rates), np.array(gradients)), len(names))


def together_words(point: PointRecord) -> str:
    """Return that in a sentence; '' where no gradients are on record."""
    if not point.block_gradients:
        return ""
    found, blocks = rates_and_gradients(point)
    if found is None:
        why = "all have one rate" if blocks >= _FEWEST else f"there are only {blocks}"
        return f"Rates and gradients of the gated blocks cannot be correlated: {why}."
    number = f"rank correlation {found:+.2f} over {blocks} gated blocks"
    if not _is_clear(found, blocks):
        return f"Rates and gradients show no clear relation ({number}; within chance)."
    size = "larger" if found > 0 else "smaller"
    return f"Blocks that run more often have the {size} gradients ({number})."


def gradient_hole(point: PointRecord, *, run: str) -> str:
    """Return what is to be said where an operating point has no gradients; '' where it has."""
    if point.block_gradients:
        return ""
    why = point.block_gradients_reason
    return why or f"the record is older than this number, and 'bench evaluate {run}' adds it"


def _is_clear(correlation: float, blocks: int) -> bool:
    """Whether so many blocks would show so strong a correlation by chance once in 20 at most."""
    degrees = blocks - 2
    if abs(correlation) >= 1:
        return True
    t = abs(correlation) * math.sqrt(degrees / (1 - correlation**2))
    return bool(t > t_quantile(0.975, degrees))
