"""How sure a number is that comes from several runs on the same images: seeds, images, timing.

Any smooth statistic of accuracies and costs is made linear at the estimate (the delta method).
What a run contributes on an image is then one number, and its variance has the parts of a table of
seeds by images. Which points are on a front, and how much area it encloses, is not smooth: that is
computed anew in replicates of images, the same for all networks, and of seeds. docs/statistics.md
gives the formula in words and what was simulated. Pure functions of numbers; only numpy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bench.analysis.pareto import front, hypervolume
from bench.analysis.statistics import Array, Bounds, critical_value, two_sided_p

Statistic = Callable[[Array, Array], float]
"""From the accuracies (P,) and costs (P,) of all points, group after group, to a number."""

_ACCURACY_STEP = 1e-4
_COST_STEP = 1e-5
_AT_ONCE = 250
_ENDS = (1 - 0.95) / 2, (1 + 0.95) / 2


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Runs that differ only in the seed: S seeds, P operating points, N test images.

    `correct_spn` holds 0 or 1. Costs are resampled with their images. `cost_se_p` (P,) is the
    standard error of a mean cost that neither seeds nor images account for, as timing has.
    """

    correct_spn: Array
    cost_spn: Array
    cost_se_p: Array

    @property
    def seeds(self) -> int:
        return int(self.correct_spn.shape[0])

    @property
    def points(self) -> int:
        return int(self.correct_spn.shape[1])

    @property
    def images(self) -> int:
        return int(self.correct_spn.shape[2])

    @property
    def accuracy_p(self) -> Array:
        mean_p: Array = self.correct_spn.mean(axis=(0, 2))
        return mean_p

    @property
    def cost_p(self) -> Array:
        mean_p: Array = self.cost_spn.mean(axis=(0, 2))
        return mean_p


def runs(correct_spn: Array, cost: Array | float, *, cost_se_p: Array | float = 0.0) -> Runs:
    """Return `Runs` of plain arrays; costs (S, P, 1) or a single one are those of every image.

    Raises:
        ValueError: costs or their errors do not fit the shape of `correct_spn`.
    """
    correct = np.asarray(correct_spn, dtype=float)
    seeds, points, images = correct.shape
    costs = np.broadcast_to(cost, (seeds, points, images))
    return Runs(correct, costs, np.broadcast_to(cost_se_p, points))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, its standard error and its parts, its 95 % t-interval and the p-value against 0.

    `degrees` is that of the t distribution, infinite where no seed variance enters.
    `covers_training` is False where a side has one seed: then the interval knows nothing of how
    much another training would have changed.
    """

    value: float
    standard_error: float
    seed_error: float
    image_error: float
    cost_error: float
    degrees: float
    bounds: Bounds
    p_value: float
    covers_training: bool


def estimate(statistic: Statistic, groups: Sequence[Runs]) -> Estimate:
    """Return `statistic` of `groups`, on the same images in the same order, with its interval.

    The variances add up: of seeds, of images less what both contain, of timing. The degrees of
    freedom are Welch's and Satterthwaite's; only seeds are few.

    Raises:
        ValueError: there are no groups, or they were not evaluated on equally many images.
    """
    _check_same_images(groups)
    accuracy_p = np.concatenate([group.accuracy_p for group in groups])
    cost_p = np.concatenate([group.cost_p for group in groups])
    value = statistic(accuracy_p, cost_p)
    by_accuracy, by_cost = _slopes(statistic, accuracy_p, cost_p)
    edges = np.cumsum([group.points for group in groups])[:-1]
    images = groups[0].images
    total_n = np.zeros(images)
    of_seeds = of_costs = disagreement = few = 0.0
    covers_training = True
    for group, by_accuracy_p, by_cost_p in zip(
        groups, np.split(by_accuracy, edges), np.split(by_cost, edges), strict=True
    ):
        # What each run contributes to the statistic on each image.
        influence_sn = np.einsum("p,spn->sn", by_accuracy_p, group.correct_spn)
        influence_sn += np.einsum("p,spn->sn", by_cost_p, group.cost_spn)
        mean_n = influence_sn.mean(axis=0)
        total_n += mean_n
        of_costs += float(((by_cost_p * group.cost_se_p) ** 2).sum())
        seeds = group.seeds
        if seeds == 1:
            covers_training &= not (by_accuracy_p.any() or by_cost_p.any())
            continue
        mean_s = influence_sn.mean(axis=1)
        variance = float(mean_s.var(ddof=1)) / seeds
        of_seeds += variance
        few += variance**2 / (seeds - 1)
        rest_sn = influence_sn - mean_n - mean_s[:, None] + mean_n.mean()
        interaction = float((rest_sn**2).sum()) / max(1, (seeds - 1) * (images - 1))
        disagreement += interaction / (images * seeds)
    of_images = float(total_n.var(ddof=1)) / images if images > 1 else 0.0
    # The disagreement of seeds on single images is in both the seed and the image variance.
    of_images = max(0.0, of_images - disagreement)
    variance = of_images + of_seeds + of_costs
    degrees = variance**2 / few if few else math.inf
    error = math.sqrt(variance)
    half = critical_value(0.95, degrees) * error if error else 0.0
    t = value / error if error else math.copysign(math.inf, value) if value else 0.0
    return Estimate(
        value=value,
        standard_error=error,
        seed_error=math.sqrt(of_seeds),
        image_error=math.sqrt(of_images),
        cost_error=math.sqrt(of_costs),
        degrees=degrees,
        bounds=Bounds(value - half, value + half),
        p_value=two_sided_p(t, degrees),
        covers_training=covers_training,
    )


def _check_same_images(groups: Sequence[Runs]) -> None:
    if not groups or len({group.images for group in groups}) != 1:
        raise ValueError("groups are compared on the same images")


def _slopes(statistic: Statistic, accuracy_p: Array, cost_p: Array) -> tuple[Array, Array]:
    """Return the derivatives of `statistic` by every accuracy and every cost."""

    def slope(point: int, step: float, which: int) -> float:
        sides = []
        for signed in (step, -step):
            moved = [accuracy_p.copy(), cost_p.copy()]
            moved[which][point] += signed
            sides.append(statistic(*moved))
        change = sides[0] - sides[1]
        # Rounding is no change, so that points without influence have none.
        return change / (2 * step) if step and abs(change) > 1e-13 else 0.0

    by_accuracy = [slope(point, _ACCURACY_STEP, 0) for point in range(len(accuracy_p))]
    by_cost = [slope(point, _COST_STEP * abs(cost), 1) for point, cost in enumerate(cost_p)]
    return np.array(by_accuracy), np.array(by_cost)


def difference(a_sn: Array, b_sn: Array) -> Estimate:
    """Return accuracy(a) - accuracy(b) of two groups, (seeds, images) each, same images.

    Seeds are not paired: seed 0 of one network has nothing in common with seed 0 of another.

    Raises:
        ValueError: the arrays are not on equally many images.
    """
    groups = [runs(side_sn[:, None, :], 1.0) for side_sn in (a_sn, b_sn)]
    return estimate(lambda accuracy_p, _: float(accuracy_p[0] - accuracy_p[1]), groups)


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
    _check_same_images(groups)
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
    rounds: int = 2000,
) -> FrontUncertainty:
    """Return the probability of each point to be on the front, and the hypervolume.

    The hypervolume's 95 % interval is the basic one (twice the estimate less the quantiles): the
    best of several noisy points is too good in every replicate, and this undoes it.
    """
    drawn = replicates(groups, seed=0, rounds=rounds)
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
    low, high = (float(q) for q in np.quantile(areas, _ENDS))
    bounds = Bounds(max(0.0, 2 * area - high), 2 * area - low)
    return FrontUncertainty(tuple((counts / rounds).tolist()), area, bounds)


def _by_image(group: Runs) -> Array:
    """Return what each image contributes to the accuracies and costs (N, 2P), seeds averaged."""
    return np.concatenate([group.correct_spn.mean(axis=0), group.cost_spn.mean(axis=0)]).T


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
    value_sk = np.concatenate([group.correct_spn, group.cost_spn], axis=1).mean(axis=2)
    centred_sk = (value_sk - value_sk.mean(axis=0)) / np.sqrt(seeds * (seeds - 1))
    normal_rs = rng.standard_normal((rounds, seeds))
    chi_r = rng.chisquare(seeds - 1, size=rounds) / (seeds - 1)
    moves_rk: Array = normal_rs @ centred_sk / np.sqrt(chi_r)[:, None]
    return moves_rk
