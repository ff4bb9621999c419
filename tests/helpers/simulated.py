"""Made-up experiments with known answers: networks that find the same images hard."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.analysis.uncertainty import Runs, runs
from bench.analysis.verdict import Comparison, compare

Array = np.ndarray[Any, Any]
_STEEP = 6.0
_GRID = np.linspace(-6, 6, 601)
_WEIGHT = np.exp(-(_GRID**2) / 2) / np.exp(-(_GRID**2) / 2).sum()
_SHIFTS = np.linspace(-3 * _STEEP, 6 * _STEEP, 200)
_ACCURACIES = np.array([(_WEIGHT / (1 + np.exp(-_STEEP * _GRID - s))).sum() for s in _SHIFTS])


def networks(
    rng: np.random.Generator, accuracies: list[float], *, seeds: int, images: int, seed_sd: float
) -> list[Array]:
    """Return (seeds, images) for each true accuracy; a training misses it by `seed_sd`.

    An image is right with a probability of its own, that all networks share but for a shift.
    """
    ease_n = _STEEP * rng.standard_normal(images)
    found = []
    for accuracy in accuracies:
        reached_s = np.clip(accuracy + seed_sd * rng.standard_normal(seeds), 0.01, 0.999)
        shift_s = np.interp(reached_s, _ACCURACIES, _SHIFTS)
        chance_sn = 1 / (1 + np.exp(-(ease_n + shift_s[:, None])))
        found.append(rng.random((seeds, images)) < chance_sn)
    return found


def point(correct_sn: Array, cost: float, *, cost_se: float = 0.0) -> Runs:
    """Return runs of one operating point that costs the same on every image."""
    return runs(correct_sn[:, None, :], cost, cost_se_p=cost_se)


def experiment(
    rng: np.random.Generator, *, seeds: int, images: int, seed_sd: float, gain: float
) -> Comparison:
    """Return a method midway between two static networks, its true gain being `gain`."""
    small, large, method = networks(
        rng, [0.88, 0.92, 0.90 + gain], seeds=seeds, images=images, seed_sd=seed_sd
    )
    found = compare(point(method, 1.5), [point(small, 1.0), point(large, 2.0)])
    assert isinstance(found, Comparison)
    return found
