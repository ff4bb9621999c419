"""Intervals and tests for accuracies: over seeds, over test images, and paired; correlations.

Also which images are the cheapest and the most expensive: those looked at one by one. Pure
functions of numbers; owns no records and no words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class Bounds(NamedTuple):
    """An interval."""

    low: float
    high: float


def two_sided_p(t: float, degrees: float) -> float:
    """Return P(|T| >= |t|) of Student's t; degrees may be fractions, or infinitely many."""
    from scipy.special import stdtr

    return float(2 * stdtr(degrees, -abs(t)))


def critical_value(level: float, degrees: float) -> float:
    """Return t with P(|T| <= t) = `level`: what a standard error is multiplied by."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))


def sample_sd(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (n - 1 in the denominator); None below two values."""
    return stdev(values) if len(values) > 1 else None


def t_interval(values: Sequence[float]) -> Bounds | None:
    """Return the 95 % t-interval of the mean; None below two values, where there is none."""
    spread = sample_sd(values)
    if spread is None:
        return None
    half = critical_value(0.95, len(values) - 1) * spread / math.sqrt(len(values))
    centre = fmean(values)
    return Bounds(centre - half, centre + half)


def wilson_interval(correct: int, total: int, z: float = 1.959964) -> Bounds:
    """Return Wilson's interval of a share of `total` images; never leaves [0, 1].

    Raises:
        ValueError: not 0 <= correct <= total, or no images.
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"{correct} of {total} is not a share")
    share, square = correct / total, z * z
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = z / (1 + square / total)
    half *= math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    # At the ends the formula is exact and rounding is not.
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == total else min(1.0, centre + half)
    return Bounds(low, high)


def rank_correlation(a_n: Array, b_n: Array) -> float | None:
    """Return Spearman's correlation, ties by their mean rank; None where one side is constant."""
    ranks_a, ranks_b = (_mean_ranks(np.asarray(values)) for values in (a_n, b_n))
    if len(a_n) < 2 or not ranks_a.std() or not ranks_b.std():
        return None
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])


def _mean_ranks(values: Array) -> Array:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Array = (last - (counts - 1) / 2)[group]
    return ranks


SHOWN_IMAGES = 10


class Extremes(NamedTuple):
    """Positions in the test set, the most extreme first; of images that cost the same, in order."""

    cheapest: tuple[int, ...]
    most_expensive: tuple[int, ...]


def extremes_of(cost_n: Array) -> Extremes:
    """Return SHOWN_IMAGES of each end, fewer of a small set: never one in both."""
    count = min(SHOWN_IMAGES, len(cost_n) // 2)
    return Extremes(
        tuple(int(n) for n in np.argsort(cost_n, kind="stable")[:count]),
        tuple(int(n) for n in np.argsort(-cost_n, kind="stable")[:count]),
    )
