"""Resampling: what is surely on the front."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import networks, point

from bench.analysis.uncertainty import front_uncertainty, replicates, runs


def test_replicates_have_the_spread_that_the_formula_says() -> None:
    rng = np.random.default_rng(0)
    (correct,) = networks(rng, [0.9], seeds=8, images=400, seed_sd=0.03)
    drawn = replicates([point(correct, 1.0, cost_se=0.1)], seed=0, rounds=8000)
    accuracy = drawn.accuracy_rp[:, 0]
    of_seeds = correct.mean(axis=1).var(ddof=1) / 8 * 7 / 5  # the variance of t with 7 degrees
    of_images = correct.mean(axis=0).var() / 400
    assert accuracy.mean() == pytest.approx(correct.mean(), abs=1e-3)
    assert accuracy.var() == pytest.approx(of_seeds + of_images, rel=0.15)
    assert drawn.cost_rp.std() == pytest.approx(0.1, rel=0.05)


def test_all_networks_see_the_same_images_in_a_replicate() -> None:
    correct = np.random.default_rng(1).random((1, 200)) < 0.7
    drawn = replicates([point(correct, 1.0), point(~correct, 2.0)], seed=2, rounds=50)
    assert drawn.accuracy_rp.sum(axis=1) == pytest.approx(np.ones(50))


def test_costs_of_images_are_redrawn_with_them() -> None:
    correct = np.random.default_rng(3).random((1, 1, 200)) < 0.7
    drawn = replicates([runs(correct, 2.0 * correct)], seed=2, rounds=20)
    assert drawn.cost_rp == pytest.approx(2 * drawn.accuracy_rp)


def test_points_are_on_the_front_as_often_as_plain_reason_says() -> None:
    rng = np.random.default_rng(4)
    cheap, tied_a, tied_b, beaten = networks(
        rng, [0.8, 0.9, 0.9, 0.6], seeds=1, images=2000, seed_sd=0.0
    )
    tied_b = rng.permuted(tied_a, axis=1)
    groups = [point(cheap, 1.0), point(tied_a, 2.0), point(tied_b, 2.0), point(beaten, 3.0)]
    found = front_uncertainty(groups, worst_cost=4.0, worst_accuracy=0.0, rounds=1000)
    assert found.probability_p[0] == 1
    assert found.probability_p[1:3] == pytest.approx((0.5, 0.5), abs=0.06)
    assert found.probability_p[3] == 0
    assert found.bounds.low < found.hypervolume < found.bounds.high


def test_one_point_encloses_a_rectangle() -> None:
    correct = np.arange(100)[None] < 80
    found = front_uncertainty([point(correct, 1.0)], worst_cost=3.0, worst_accuracy=0.5, rounds=500)
    assert found.hypervolume == pytest.approx(2 * 0.3)
    assert found.bounds.high - found.bounds.low == pytest.approx(2 * 2 * 1.96 * 0.04, rel=0.15)


def test_groups_on_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="same images"):
        replicates([point(np.ones((1, 4)), 1.0), point(np.ones((1, 5)), 1.0)], seed=0)
