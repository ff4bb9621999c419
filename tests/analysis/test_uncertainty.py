"""Standard errors against sums by hand, and what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from simulated import networks, point

from bench.analysis.uncertainty import difference, estimate, runs
from bench.analysis.verdict import Comparison, compare


def test_one_seed_against_one_is_the_paired_normal_interval() -> None:
    a_sn = np.array([[1, 1, 1, 0, 1, 0, 1, 1]])
    b_sn = np.array([[1, 0, 1, 1, 0, 0, 1, 0]])
    found = difference(a_sn, b_sn)
    # Per image +1 three times, -1 once, 0 four times: mean 2/8, sum of squares 4.
    variance = (4 - 8 * 0.25**2) / 7
    assert found.value == 0.25
    assert found.standard_error == pytest.approx(math.sqrt(variance / 8))
    assert found.bounds.high == pytest.approx(0.25 + 1.959964 * math.sqrt(variance / 8))
    assert (found.seed_error, found.degrees, found.covers_training) == (0, math.inf, False)


def test_seed_and_image_variances_are_those_of_the_table_of_both() -> None:
    a_sn = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    found = difference(a_sn, np.zeros((2, 4)))
    # Seed means 3/4, 2/4, 4/4: variance 1/16, over three seeds 1/48.
    assert found.seed_error == pytest.approx(math.sqrt(1 / 48))
    # Image means 1, 1, 2/3, 1/3: variance 11/108, over four images 11/432. What neither explains:
    # the total sum of squares 9/4, less 1/2 for seeds and 11/12 for images, is 5/6.
    interaction = (5 / 6) / (2 * 3) / (3 * 4)
    assert found.image_error == pytest.approx(math.sqrt(11 / 432 - interaction))
    variance = 1 / 48 + 11 / 432 - interaction
    assert found.degrees == pytest.approx(variance**2 / ((1 / 48) ** 2 / 2))
    assert found.covers_training


def test_one_seed_on_one_side_is_told() -> None:
    rng = np.random.default_rng(0)
    three, one = networks(rng, [0.9, 0.9], seeds=3, images=200, seed_sd=0.01)
    assert not difference(three, one[:1]).covers_training
    assert difference(three, one[:2]).covers_training


def test_neither_the_order_of_runs_nor_of_images_matters() -> None:
    rng = np.random.default_rng(1)
    a_sn, b_sn = networks(rng, [0.9, 0.85], seeds=3, images=300, seed_sd=0.01)
    order, images = [2, 0, 1], rng.permutation(300)
    one, other = difference(a_sn, b_sn), difference(a_sn[order][:, images], b_sn[:, images])
    assert other.standard_error == pytest.approx(one.standard_error, rel=1e-9)
    assert other.p_value == pytest.approx(one.p_value, rel=1e-6)
    swapped = difference(b_sn, a_sn)
    assert swapped.value == -one.value
    assert swapped.p_value == pytest.approx(one.p_value, rel=1e-9)


def test_an_unsure_cost_enters_by_the_slope_of_the_curve() -> None:
    nothing, everything = np.zeros((1, 100)), np.ones((1, 100))
    half = np.concatenate([nothing[:, :50], everything[:, :50]], axis=1)
    statics = [point(nothing, 1.0, cost_se=0.03), point(everything, 3.0, cost_se=0.05)]
    found = compare(point(half, 2.0, cost_se=0.04), statics)
    assert isinstance(found, Comparison)
    # Slope 1/2; midway each static cost counts half.
    expected = 0.5 * math.sqrt(0.04**2 + (0.5 * 0.03) ** 2 + (0.5 * 0.05) ** 2)
    assert found.gain.cost_error == pytest.approx(expected, rel=1e-6)
    assert found.gain.value == pytest.approx(0)


def test_macs_are_resampled_with_their_images() -> None:
    """An image that costs more and is right just lies on the curve: nothing is left to chance."""
    nothing, everything = np.zeros((1, 40)), np.ones((1, 40))
    right_n = (np.arange(40) % 4 == 0).astype(float)
    on_the_line = runs(right_n[None, None], (1 + 2 * right_n)[None, None])
    apart = runs(right_n[None, None], 1.5)
    statics = [point(nothing, 1.0), point(everything, 3.0)]
    tied, free = compare(on_the_line, statics), compare(apart, statics)
    assert isinstance(tied, Comparison)
    assert isinstance(free, Comparison)
    assert tied.gain.standard_error == pytest.approx(0, abs=1e-8)
    assert free.gain.standard_error == pytest.approx(math.sqrt(0.25 * 0.75 / 39))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="unpack"):
        runs(np.ones((3, 4)), 1.0)
    with pytest.raises(ValueError, match="broadcast"):
        runs(np.ones((3, 1, 4)), np.ones((2, 1, 1)))
    with pytest.raises(ValueError, match="broadcast"):
        runs(np.ones((3, 1, 4)), 1.0, cost_se_p=np.zeros(2))
    with pytest.raises(ValueError, match="same images"):
        difference(np.ones((1, 4)), np.ones((1, 5)))
    with pytest.raises(ValueError, match="same images"):
        estimate(lambda accuracy_p, cost_p: 0.0, [])
