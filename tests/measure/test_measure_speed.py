"""Statistics of latency samples, on synthetic milliseconds with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.measure.latency.statistics import (
    LEAST_MARGIN,
    Speedup,
    expected_ms,
    has_converged,
    interquartile_ms,
    margin_of,
    mean_interval,
    paired_speedup,
    tail_ms,
    verdict_of,
)
from bench.records.record import Interval

MILLISECONDS = st.floats(0.01, 1000)


def noisy(median_ms: float, *, n: int, seed: int, spread: float = 0.05) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return median_ms * np.exp(spread * rng.standard_normal(n))


@given(st.lists(MILLISECONDS, min_size=6, max_size=200))
def test_the_interval_contains_the_expected_time(samples: list[float]) -> None:
    ms_n = np.array(samples)
    interval = mean_interval(ms_n)
    assert interval is not None
    assert 0 <= interval.low <= expected_ms(ms_n) * (1 + 1e-9)
    assert expected_ms(ms_n) <= interval.high * (1 + 1e-9)


@pytest.mark.parametrize("n", [12, 101])
def test_the_interval_covers_the_true_mean_about_95_times_in_100(n: int) -> None:
    covered = 0
    for seed in range(400):
        interval = mean_interval(noisy(2.0, n=n, seed=seed))
        assert interval is not None
        covered += interval.low <= 2.0 * np.exp(0.05**2 / 2) <= interval.high
    assert 0.91 <= covered / 400 <= 0.98


def test_five_samples_give_no_interval() -> None:
    assert mean_interval(np.arange(1.0, 6.0)) is None
    assert mean_interval(np.arange(1.0, 7.0)) is not None


def test_convergence_needs_64_samples_and_one_percent() -> None:
    steady = np.full(63, 2.0)
    assert not has_converged(steady)
    assert has_converged(np.full(64, 2.0))
    assert not has_converged(noisy(2.0, n=64, seed=0, spread=0.3))
    assert has_converged(noisy(2.0, n=20_000, seed=0, spread=0.3))


def test_a_network_whose_images_differ_in_cost_has_not_converged_when_its_median_has() -> None:
    rng = np.random.default_rng(0)
    two_costs = np.where(rng.random(1000) < 0.3, 4.0, 1.0)
    assert np.median(two_costs) == 1.0 and not has_converged(two_costs)
    assert has_converged(np.tile(two_costs, 40))


def test_percentiles_are_stated_only_with_enough_samples() -> None:
    assert tail_ms(np.ones(63), 0.90) is None and tail_ms(np.ones(661), 0.99) is None
    assert tail_ms(np.arange(1.0, 101.0), 0.90) == 91.0
    assert tail_ms(np.arange(1.0, 1001.0), 0.99) == 991.0
    assert interquartile_ms(np.arange(1.0, 6.0)) == 2.0


def test_a_twofold_speedup_is_found_and_called_faster() -> None:
    rounds = [(noisy(4.0, n=80, seed=r), noisy(2.0, n=80, seed=50 + r)) for r in range(5)]
    speedup = paired_speedup(rounds)
    assert speedup.ratio == pytest.approx(2.0, rel=0.03) and verdict_of(speedup) == "faster"
    assert 1.9 < speedup.interval.low <= speedup.ratio <= speedup.interval.high < 2.1


def test_the_time_of_a_network_whose_images_differ_in_cost_is_their_mean() -> None:
    # Two thirds of the images take 1 ms, the others 4; one call in a thousand was interrupted.
    dense, own = np.full(999, 4.0), np.tile([1.0, 1.0, 4.0], 333)
    dense[7] = own[500] = 300.0
    assert expected_ms(own) == pytest.approx(2.0, rel=0.01)
    assert paired_speedup([(dense, own)] * 5).ratio == pytest.approx(2.0, rel=0.01)


def test_changing_places_inverts_the_speedup_and_is_called_slower() -> None:
    rounds = [(noisy(2.0, n=81, seed=r), noisy(4.0, n=81, seed=50 + r)) for r in range(5)]
    speedup = paired_speedup(rounds)
    inverse = paired_speedup([(own, base) for base, own in rounds])
    assert verdict_of(speedup) == "slower" and speedup.ratio == pytest.approx(1 / inverse.ratio)


def test_two_equal_networks_are_indistinguishable() -> None:
    rounds = [(noisy(2.0, n=80, seed=r), noisy(2.0, n=80, seed=50 + r)) for r in range(5)]
    assert verdict_of(paired_speedup(rounds)) == "indistinguishable"


def test_a_drift_that_hits_whole_rounds_of_both_cancels_out() -> None:
    drift = [1.0, 1.4, 0.9, 2.0, 1.1]
    rounds = [
        (d * noisy(3.0, n=80, seed=r), d * noisy(2.7, n=80, seed=50 + r))
        for r, d in enumerate(drift)
    ]
    speedup = paired_speedup(rounds)
    assert speedup.ratio == pytest.approx(3.0 / 2.7, rel=0.03) and verdict_of(speedup) == "faster"


def test_rounds_that_disagree_give_no_verdict_however_many_samples_they_have() -> None:
    ratios = [0.9, 1.2, 0.95, 1.1, 1.15]
    rounds = [(noisy(q, n=3000, seed=r, spread=0.01), np.ones(3000)) for r, q in enumerate(ratios)]
    speedup = paired_speedup(rounds)
    assert speedup.ratio == pytest.approx(1.1, rel=0.01)
    assert verdict_of(speedup) == "uncertain"
    assert speedup.interval.low < 0.97 and speedup.interval.high > 1.14


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(MILLISECONDS, MILLISECONDS), min_size=1, max_size=8),
        min_size=1,
        max_size=5,
    )
)
def test_the_interval_of_a_speedup_contains_it_and_agrees_with_the_verdict(
    pairs: list[list[tuple[float, float]]],
) -> None:
    rounds = [
        (np.array([base for base, _ in each]), np.array([own for _, own in each])) for each in pairs
    ]
    speedup = paired_speedup(rounds)
    assert speedup.interval.low <= speedup.ratio <= speedup.interval.high
    assert verdict_of(speedup) in ("faster", "slower", "indistinguishable", "uncertain")


@pytest.mark.parametrize(
    ("ratio", "low", "high", "verdict"),
    [
        (1.1, 1.0, 1.2, "indistinguishable"),
        (1.1, 1.001, 1.2, "faster"),
        (0.9, 0.85, 0.999, "slower"),
        (2.0, 1.2, 3.0, "uncertain"),
        (1.0, 0.5, 1.5, "uncertain"),
    ],
)
def test_an_interval_that_touches_one_or_is_wide_is_no_verdict(
    ratio: float, low: float, high: float, verdict: str
) -> None:
    assert verdict_of(Speedup(ratio, Interval(low=low, high=high))) == verdict


def test_a_speedup_within_what_the_dense_network_shows_against_itself_is_no_verdict() -> None:
    speedup = Speedup(1.03, Interval(low=1.02, high=1.04))
    margin = margin_of(Speedup(1.01, Interval(low=0.99, high=1.04)))
    assert margin == pytest.approx(0.04)
    assert verdict_of(speedup) == "faster"
    assert verdict_of(speedup, margin=margin) == "indistinguishable"
    assert verdict_of(Speedup(1.05, Interval(low=1.04, high=1.06)), margin=margin) == "faster"


def test_a_speedup_without_pairs_is_refused() -> None:
    for rounds in ([], [(np.empty(0), np.empty(0))], [(np.ones(2), np.ones(3))]):
        with pytest.raises(ValueError, match="at least one pair"):
            paired_speedup(rounds)


def test_processes_that_differ_widen_the_interval_to_their_range() -> None:
    # Two rounds each of three processes: within one all is equal, one process is a third off.
    ratios = [2.0, 2.0, 2.0, 2.0, 3.0, 3.0]
    rounds = [(np.full(8, ratio), np.full(8, 1.0)) for ratio in ratios]
    known = paired_speedup(rounds, processes=[0, 0, 1, 1, 2, 2])
    assert known.ratio == 2.0
    assert (known.interval.low, known.interval.high) == (2.0, 3.0)
    one = paired_speedup(rounds, processes=[0] * 6)
    assert one == paired_speedup(rounds)


def test_processes_of_unequal_rounds_are_drawn_alike() -> None:
    rounds = [(np.full(8, ratio), np.full(8, 1.0)) for ratio in (1.0, 2.0, 2.0, 2.0, 2.0)]
    found = paired_speedup(rounds, processes=[0, 1, 1, 1, 1])
    assert found.ratio == 2.0 and found.interval.low == 1.0


def test_a_margin_covers_what_no_round_shows() -> None:
    quiet = Speedup(1.0, Interval(low=0.999, high=1.001))
    assert margin_of(quiet) == LEAST_MARGIN
    assert verdict_of(Speedup(1.01, Interval(low=1.005, high=1.015)), margin=margin_of(quiet)) == (
        "indistinguishable"
    )
    assert margin_of(Speedup(1.0, Interval(low=0.95, high=1.01))) == pytest.approx(0.05)
