"""The statistics of latency samples: expected times, intervals, paired speed-ups, verdicts.

Pure functions on arrays of milliseconds; owns no clock and no network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.analysis.statistics import critical_value
from bench.records.record import Interval, SpeedVerdict

Ms = npt.NDArray[np.float64]

MIN_QUERIES = 64
HALF_WIDTH = 0.01
LEAST_MARGIN = 0.02
"""Where a network's memory lies in a process moves its time by a percent, in all rounds alike."""

WIDE = 0.1  # half of an interval, relative to the speed-up, from which on it has no verdict
# MLPerf's early-stopping counts at confidence 0.99 with one query above the bound.
QUERIES_FOR = {0.90: 64, 0.99: 662}
_INTERVAL_QUERIES = 6
_DRAWS = 4000
_ROUND_DRAWS = 200
_LEVELS = (0.025, 0.975)
_SLOWEST = 0.99  # slower calls count as this quantile: they were interrupted


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times faster than the baseline, with a 95 % interval."""

    ratio: float
    interval: Interval


def expected_ms(ms_n: Ms) -> float:
    """Return the mean over the calls; one slower than 99 % of them counts as these.

    A mean, because the images of one network differ in cost: of a cascade that answers two thirds
    of them with its small network, the median is the time of that network.
    """
    return float(_clipped(ms_n).mean())


def _clipped(ms_n: Ms) -> Ms:
    return np.minimum(ms_n, np.quantile(ms_n, _SLOWEST, method="higher"))


def mean_interval(ms_n: Ms) -> Interval | None:
    """Return the 95 % t-interval of `expected_ms`; None below 6 samples.

    It takes the calls as independent: what moves a whole round is seen by the interval of the
    paired speed-up alone.
    """
    if len(ms_n) < _INTERVAL_QUERIES:
        return None
    clipped, n = _clipped(ms_n), len(ms_n)
    centre = float(clipped.mean())
    half = critical_value(0.95, n - 1) * float(clipped.std(ddof=1)) / math.sqrt(n)
    return Interval(low=max(0.0, centre - half), high=centre + half)


def has_converged(ms_n: Ms) -> bool:
    """Whether there are 64 samples and the interval of the mean is within 1 % on each side."""
    interval = mean_interval(ms_n) if len(ms_n) >= MIN_QUERIES else None
    if interval is None:
        return False
    return (interval.high - interval.low) / 2 <= HALF_WIDTH * expected_ms(ms_n)


def tail_ms(ms_n: Ms, share: float) -> float | None:
    """Return the percentile `share` (0.9 or 0.99); None with too few samples to state it."""
    if len(ms_n) < QUERIES_FOR[share]:
        return None
    return float(np.quantile(ms_n, share, method="higher"))


def interquartile_ms(ms_n: Ms) -> float:
    """Return the distance between the quartiles."""
    low, high = np.quantile(ms_n, [0.25, 0.75])
    return float(high - low)


def paired_speedup(
    rounds: Sequence[tuple[Ms, Ms]], *, processes: Sequence[int] | None = None
) -> Speedup:
    """Return the speed-up from rounds of (baseline ms, subject ms), pair by pair the same images.

    The ratio is the median over the rounds of expected(baseline) / expected(subject). Its interval
    is a bootstrap on two levels. Rounds are drawn with replacement, because drift of the machine
    moves a whole round and no statistic within a round sees it: with five rounds the interval spans
    about the range of the rounds' ratios. Within a drawn round the pairs are drawn, because both
    networks saw the same images and hard images cost both more. Where `processes` says in which
    process each round was timed, processes are drawn first and rounds within them.

    Raises:
        ValueError: there is no round, or a round without pairs.
    """
    if not rounds or any(len(a) != len(b) or len(a) == 0 for a, b in rounds):
        raise ValueError("a speed-up needs rounds of at least one pair each")
    rng = np.random.default_rng(0)
    ratio = float(np.median([expected_ms(base) / expected_ms(own) for base, own in rounds]))
    ratios_rd = np.stack([_resampled_ratios(base, own, rng=rng) for base, own in rounds])
    picked = _drawn_rounds(processes or [0] * len(rounds), rng=rng)
    within = rng.integers(_ROUND_DRAWS, size=picked.shape)
    draws = np.append(np.median(ratios_rd[picked, within], axis=1), ratio)
    low, high = (float(end) for end in np.quantile(draws, _LEVELS))
    interval = Interval(low=min(low, ratio), high=max(high, ratio))
    return Speedup(ratio, interval)


def verdict_of(speedup: Speedup, *, margin: float = 0.0) -> SpeedVerdict:
    """Return what a speed-up says: nothing, where its interval is wide or contains 1, or where it
    is within `margin` of 1."""
    low, high = speedup.interval.low, speedup.interval.high
    if high - low > 2 * WIDE * speedup.ratio:
        return "uncertain"
    if low <= 1 <= high or abs(speedup.ratio - 1) <= margin:
        return "indistinguishable"
    return "faster" if speedup.ratio > 1 else "slower"


def margin_of(itself: Speedup) -> float:
    """Return the margin from the dense network's speed-up over itself, at least `LEAST_MARGIN`."""
    return max(LEAST_MARGIN, itself.interval.high - 1, 1 - itself.interval.low)


def _drawn_rounds(processes: Sequence[int], *, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Return rounds (draws, rounds): a process, then as many rounds as its share, in turn."""
    members = [np.flatnonzero(np.array(processes) == one) for one in dict.fromkeys(processes)]
    each = math.ceil(len(processes) / len(members))
    picked = np.empty((_DRAWS, each * len(members)), dtype=np.intp)
    for slot in range(0, picked.shape[1], each):
        chosen = rng.integers(len(members), size=_DRAWS) if len(members) > 1 else np.zeros(_DRAWS)
        for number, rounds in enumerate(members):
            mine = np.flatnonzero(chosen == number)
            places = rng.integers(len(rounds), size=(len(mine), each))
            picked[mine, slot : slot + each] = rounds[places]
    return picked


def _resampled_ratios(base: Ms, own: Ms, *, rng: np.random.Generator) -> Ms:
    pairs = rng.integers(len(base), size=(_ROUND_DRAWS, len(base)))
    ratios: Ms = _clipped(base)[pairs].mean(axis=1) / _clipped(own)[pairs].mean(axis=1)
    return ratios
