"""The clock's own rules: order of inputs, warm-up by coverage, contention, threads."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from deciding_nets import images
from torch import Tensor

from bench.measure.latency.profiles import PROFILES, Profile
from bench.measure.latency.rounds import Query, queries, time_round, warm_up
from bench.measure.modes import full_fp32, using_threads
from bench.runtimes.contract import Run

CPU = torch.device("cpu")
SHORT = Profile("short", round_s=0.02, max_time_s=1.0, warmup_calls=3, warmup_s=0.0)


def taking(step: Callable[[], None]) -> Run:
    """A network that runs everything and takes as long as `step`."""

    def run(x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        step()
        return x_nchw, torch.ones(len(x_nchw), 2)

    return run


def test_inputs_follow_the_order_in_full_batches_and_begin_again() -> None:
    x_nchw, order = images(5), np.array([3, 1, 4, 0, 2], dtype=np.int32)
    given = list(itertools.islice(queries(x_nchw, order, batch_size=2), 3))
    assert [query.image_b.tolist() for query in given] == [[3, 1], [4, 0], [3, 1]]
    for query in given:
        assert torch.equal(query.x_nchw, x_nchw[query.image_b.tolist()])
        assert query.x_nchw.is_contiguous(memory_format=torch.channels_last)


def test_a_round_times_the_call_alone_and_divides_by_the_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_ns = 0
    monkeypatch.setattr(time, "perf_counter_ns", lambda: now_ns)

    def pass_ms(duration_ms: int) -> None:
        nonlocal now_ns
        now_ns += duration_ms * 1_000_000

    def slow_inputs() -> Iterator[Query]:
        for query in queries(images(8), np.arange(8, dtype=np.int32), batch_size=4):
            pass_ms(500)
            yield query

    samples = time_round(taking(lambda: pass_ms(8)), slow_inputs(), profile=SHORT, device=CPU)
    assert samples.ms_n.tolist() == [2.0, 2.0, 2.0]  # until 20 ms are spent
    assert samples.image_nb.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]


def test_a_round_makes_its_calls_however_long_one_takes() -> None:
    inputs = queries(images(4), np.arange(4, dtype=np.int32), batch_size=1)
    samples = time_round(taking(lambda: time.sleep(0.03)), inputs, profile=SHORT, device=CPU)
    assert len(samples.ms_n) == SHORT.round_calls


def opening_late(at_call: int) -> tuple[Run, list[int]]:
    calls: list[int] = []

    def call(x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(x_nchw))
        return x_nchw, torch.tensor([[1.0, float(len(calls) >= at_call)]])

    return call, calls


@pytest.mark.parametrize(
    ("opens_at", "expected"), [(1, 3), (20, 20), (10_000, 32)], ids=["early", "late", "never"]
)
def test_warm_up_lasts_until_every_unit_ran_or_images_run_out(opens_at: int, expected: int) -> None:
    call, calls = opening_late(opens_at)
    inputs = queries(images(8), np.arange(8, dtype=np.int32), batch_size=2)
    profile = Profile(
        "short", round_s=0, max_time_s=1, warmup_calls=3, warmup_s=0, coverage_images=64
    )
    warm_up(call, inputs, profile=profile, device=CPU)
    assert len(calls) == expected


def test_warm_up_lasts_for_its_time() -> None:
    inputs = queries(images(8), np.arange(8, dtype=np.int32), batch_size=1)
    profile = Profile("short", round_s=0, max_time_s=1, warmup_calls=1, warmup_s=0.05)
    begin = time.perf_counter()
    warm_up(taking(lambda: None), inputs, profile=profile, device=CPU)
    assert time.perf_counter() - begin >= 0.05


def test_switches_are_put_back_even_after_an_error() -> None:
    threads, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    with pytest.raises(RuntimeError), using_threads(threads + 1), full_fp32():
        assert torch.get_num_threads() == threads + 1
        assert not torch.backends.cudnn.allow_tf32
        raise RuntimeError
    assert torch.get_num_threads() == threads
    assert torch.backends.cudnn.allow_tf32 == tf32


def test_the_careful_profile_spreads_its_rounds_over_processes() -> None:
    whole = PROFILES["publish"]
    assert (whole.round_s, whole.rounds, whole.processes) == (60, 6, 3)
    part = whole.part
    assert (part.rounds, part.max_time_s, part.round_s, part.processes) == (2, 200, 60, 1)
    assert all(profile.rounds >= 5 for profile in PROFILES.values())
