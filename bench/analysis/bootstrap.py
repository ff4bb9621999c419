"""Resampling of images, the same for all networks, and of seeds: for what is not smooth.

Which points are on a front, and how much area it encloses, are not smooth in the accuracies, so
they are computed anew in every replicate. Pure functions of numbers; only numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.analysis.pareto import front, hypervolume
from bench.analysis.statistics import Bounds
from bench.analysis.uncertainty import Runs

Array = np.ndarray[Any, Any]
_AT_ONCE = 250


class Replicates(NamedTuple):
    """Accuracies and costs (R, P) of all points of all groups, in R synthetic repetitions."""

    accuracy_rp: Array
    cost_rp: Array


class FrontUncertainty(NamedTuple):
    """For each point the share of replicates that have it on the front; the hypervolume."""

    probability_p: tuple[float, ...]
    hypervolume: float
    bounds: Bounds


def replicates(groups: Sequence[Runs], *, seed: int, rounds: int = 2000) -> Replicates:
    """Return joint replicates of `groups`: other images for all at once, other seeds for each.

    Images are drawn with replacement. Seeds are not: of three seeds there are ten resamples, whose
    spread is a third too small. Their mean is moved by a draw from the t distribution (S - 1
    degrees) with the covariance that the S runs show; one seed is not moved. Costs with a standard
    error are moved by a normal draw.

    Raises:
        ValueError: there are no groups, or they were not evaluated on equally many images.
    """
    if not groups or len({group.images for group in groups}) != 1:
        raise ValueError("groups are compared on the same images")
    rng = np.random.default_rng(seed)
    value_np = np.concatenate([_by_image(group) for group in groups], axis=1)
    mean_rk = _resampled_means(value_np, rounds=rounds, rng=rng)
    accuracy, cost, start = [], [], 0
    for group in groups:
        p = group.points
        moved_rk = mean_rk[:, start : start + 2 * p] + _seed_moves(group, rounds=rounds, rng=rng)
        accuracy.append(moved_rk[:, :p])
        cost.append(moved_rk[:, p:] + group.cost_se_p * rng.standard_normal((rounds, p)))
        start += 2 * p
    return Replicates(np.concatenate(accuracy, axis=1), np.concatenate(cost, axis=1))


def front_uncertainty(
    groups: Sequence[Runs],
    *,
    worst_cost: float,
    worst_accuracy: float,
    seed: int,
    rounds: int = 2000,
    level: float = 0.95,
) -> FrontUncertainty:
    """Return the probability of each point to be on the front, and the hypervolume.

    The hypervolume's interval is the basic one (twice the estimate less the quantiles): the best
    of several noisy points is too good in every replicate, and this undoes it.
    """
    drawn = replicates(groups, seed=seed, rounds=rounds)
    accuracy_p = np.concatenate([group.accuracy_p for group in groups])
    cost_p = np.concatenate([group.cost_p for group in groups])
    counts = np.zeros(len(accuracy_p))
    areas = np.empty(rounds)
    for number, (accuracies, costs) in enumerate(zip(*drawn, strict=True)):
        points = list(zip(costs.tolist(), accuracies.tolist(), strict=True))
        counts[front(points)] += 1
        areas[number] = hypervolume(points, worst_cost=worst_cost, worst_accuracy=worst_accuracy)
    observed = list(zip(cost_p.tolist(), accuracy_p.tolist(), strict=True))
    area = hypervolume(observed, worst_cost=worst_cost, worst_accuracy=worst_accuracy)
    low, high = (float(q) for q in np.quantile(areas, [(1 - level) / 2, (1 + level) / 2]))
    bounds = Bounds(max(0.0, 2 * area - high), 2 * area - low)
    return FrontUncertainty(tuple((counts / rounds).tolist()), area, bounds)


def _by_image(group: Runs) -> Array:
    """Return what each image contributes to the accuracies and costs (N, 2P), seeds averaged."""
    cost_pn = np.broadcast_to(
        group.cost.mean(axis=0).reshape(group.points, -1), (group.points, group.images)
    )
    return np.concatenate([group.correct_spn.mean(axis=0), cost_pn]).T


def _resampled_means(value_nk: Array, *, rounds: int, rng: np.random.Generator) -> Array:
    """Return the means (R, K) over N images drawn again, the same images for all columns."""
    images = len(value_nk)
    found = []
    for start in range(0, rounds, _AT_ONCE):
        some = min(_AT_ONCE, rounds - start)
        drawn = rng.integers(images, size=(some, images)) + images * np.arange(some)[:, None]
        weight_rn = np.bincount(drawn.ravel(), minlength=some * images).reshape(some, images)
        found.append(weight_rn @ value_nk / images)
    return np.concatenate(found)


def _seed_moves(group: Runs, *, rounds: int, rng: np.random.Generator) -> Array:
    """Return draws (R, 2P) of how far the mean over S seeds may lie from that over all seeds."""
    seeds = group.seeds
    if seeds == 1:
        return np.zeros((rounds, 2 * group.points))
    cost_sp = group.cost if group.cost.ndim == 2 else group.cost.mean(axis=2)
    value_sk = np.concatenate([group.correct_spn.mean(axis=2), cost_sp], axis=1)
    centred_sk = (value_sk - value_sk.mean(axis=0)) / np.sqrt(seeds * (seeds - 1))
    normal_rs = rng.standard_normal((rounds, seeds))
    chi_r = rng.chisquare(seeds - 1, size=rounds) / (seeds - 1)
    moves_rk: Array = normal_rs @ centred_sk / np.sqrt(chi_r)[:, None]
    return moves_rk
