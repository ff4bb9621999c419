"""Verdicts on synthetic experiments: error rates, coverage and power, and cases by hand; the
static curve on points whose answers are plain to see."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import Array, experiment, networks, point

from bench.analysis.uncertainty import Runs, runs
from bench.analysis.verdict import Comparison, Outside, compare, decide, holm


def rates(*, seeds: int, seed_sd: float, gain: float, count: int) -> tuple[float, float]:
    """Return how often a verdict is given, and how often the interval holds the true gain."""
    rng = np.random.default_rng(20)
    given = held = 0
    for _ in range(count):
        found = experiment(rng, seeds=seeds, images=500, seed_sd=seed_sd, gain=gain)
        (verdict,) = decide([found])
        given += verdict.outcome != "not distinguishable"
        held += found.gain.bounds.low <= gain <= found.gain.bounds.high
    return given / count, held / count


def test_with_three_seeds_wrong_verdicts_are_as_rare_as_the_level_says() -> None:
    wrong, held = rates(seeds=3, seed_sd=0.01, gain=0.0, count=2000)
    assert 0.03 <= wrong <= 0.07
    assert 0.93 <= held <= 0.97


def test_without_training_variance_they_are_no_more_frequent() -> None:
    wrong, held = rates(seeds=3, seed_sd=0.0, gain=0.0, count=600)
    assert 0.02 <= wrong <= 0.065
    assert held >= 0.93


def test_one_seed_with_training_variance_is_far_too_sure() -> None:
    wrong, held = rates(seeds=1, seed_sd=0.02, gain=0.0, count=500)
    assert wrong > 0.2
    assert held < 0.8
    found = experiment(np.random.default_rng(0), seeds=1, images=500, seed_sd=0.02, gain=0.0)
    assert not found.gain.covers_training


def test_one_seed_without_training_variance_keeps_the_level() -> None:
    wrong, _ = rates(seeds=1, seed_sd=0.0, gain=0.0, count=1000)
    assert 0.03 <= wrong <= 0.07


def test_a_real_gain_is_found_and_its_interval_holds_it() -> None:
    found, held = rates(seeds=3, seed_sd=0.005, gain=0.05, count=300)
    assert found > 0.95
    assert 0.91 <= held <= 0.99


def test_the_gain_of_one_of_several_points_keeps_the_level() -> None:
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(400):
        small, large, a, b = networks(
            rng, [0.88, 0.92, 0.89, 0.91], seeds=3, images=500, seed_sd=0.005
        )
        method = runs(np.stack([a, b], axis=1), np.array([1.25, 1.75])[:, None])
        found = compare(method, [point(small, 1.0), point(large, 2.0)], point=1)
        assert isinstance(found, Comparison)
        assert found.cost == 1.75
        wrong += found.gain.p_value < 0.05
    assert 0.02 <= wrong / 400 <= 0.08


def bits(share: float, images: int = 100) -> Array:
    return (np.arange(images) < round(share * images)).astype(float)[None]


STATICS = [point(bits(0.8), 1.0), point(bits(0.9), 3.0)]


def compared(*points: tuple[float, float], point: int = 0) -> Comparison | Outside | None:
    correct = np.stack([bits(accuracy)[0] for accuracy, _ in points])
    method = runs(correct[None], np.array([[cost] for _, cost in points]))
    return compare(method, STATICS, point=point)


def test_the_gain_at_equal_cost_is_read_off_the_line() -> None:
    found = compared((0.88, 2.0))
    assert isinstance(found, Comparison)
    assert (found.accuracy, found.static_accuracy) == pytest.approx((0.88, 0.85))
    assert found.gain.value == pytest.approx(0.03)
    assert found.cost == 2.0
    assert found.static == (0, 1)


def test_of_several_points_the_named_one_is_compared_and_all_have_their_gain() -> None:
    points = (0.8, 1.0), (0.9, 2.0), (0.7, 0.5)
    found = compared(*points, point=1)
    assert isinstance(found, Comparison)
    assert (found.cost, found.accuracy) == (2.0, 0.9)
    assert found.gain.value == pytest.approx(0.05)
    gains = [None if p.gain is None else round(p.gain.value, 9) for p in found.points]
    assert gains == [0.0, 0.05, None]
    outside = compared(*points, point=2)
    assert isinstance(outside, Outside)
    assert (outside.cost, outside.static, outside.more_expensive) == (0.5, (0,), False)


def test_a_cost_at_a_static_network_is_compared_with_that_one_alone() -> None:
    found = compared((0.85, 3.0))
    assert isinstance(found, Comparison)
    assert found.static == (1,)
    assert found.gain.value == pytest.approx(-0.05)


def test_beyond_the_static_costs_there_is_no_verdict_but_the_nearest_network() -> None:
    found = compared((0.95, 4.0))
    assert isinstance(found, Outside)
    assert (found.static, found.nearest_cost, found.cost) == ((1,), 3.0, 4.0)
    assert found.gain.value == pytest.approx(0.05)
    assert compare(STATICS[0], []) is None


def test_neither_names_nor_order_of_static_networks_matter() -> None:
    rng = np.random.default_rng(5)
    a, b, c, method = networks(rng, [0.85, 0.9, 0.92, 0.91], seeds=3, images=300, seed_sd=0.01)
    statics = [point(a, 1.0), point(b, 2.0), point(c, 3.0)]
    own: Runs = point(method, 2.4)
    one, other = compare(own, statics), compare(own, statics[::-1])
    assert isinstance(one, Comparison)
    assert isinstance(other, Comparison)
    assert other.gain.value == pytest.approx(one.gain.value)
    assert other.gain.standard_error == pytest.approx(one.gain.standard_error, rel=1e-9)
    assert [2 - k for k in other.static] == list(one.static)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_decides_and_both_p_values_stay() -> None:
    rng = np.random.default_rng(11)
    found = [
        experiment(rng, seeds=3, images=500, seed_sd=0.0, gain=0.0 if k else 0.06) for k in range(8)
    ]
    verdicts = decide(found)
    assert verdicts[0].outcome == "better"
    for verdict in verdicts:
        assert verdict.p_value <= verdict.p_holm
        assert verdict.family == 8
        assert (verdict.outcome == "not distinguishable") is (verdict.p_holm >= 0.05)


def test_holm_keeps_all_false_verdicts_at_once_at_the_level() -> None:
    rng = np.random.default_rng(12)
    families = 200
    wrong = 0
    for _ in range(families):
        found = [experiment(rng, seeds=3, images=300, seed_sd=0.01, gain=0.0) for _ in range(4)]
        wrong += any(v.outcome != "not distinguishable" for v in decide(found))
    assert wrong / families <= 0.09
