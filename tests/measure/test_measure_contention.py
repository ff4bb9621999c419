"""Whether the machine was shared: each sign by itself, on synthetic clocks and on the real ones."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.measure import environment as contention
from bench.measure.environment import ContentionMeter, MachineTimes, machine_times

COUNTERS = ("busy_s", "stolen_s")
BUSY = "print(flush=True)\nwhile True: pass"


@pytest.mark.parametrize(
    ("cpu", "others", "steal", "load", "threads", "contended"),
    [
        (0.99, 0.10, 0.00, 1.0, 1, False),
        (0.94, 0.10, 0.00, 1.0, 1, True),  # starved
        (0.94, 0.10, 0.00, 1.0, 2, True),  # 1.8 of 2 cores are free
        (1.80, 0.04, 0.00, 1.0, 2, False),
        (0.99, 0.10, 0.06, 1.0, 1, True),  # the host took more than 5 %
        (0.99, 0.10, 0.049, 1.0, 1, False),
        (0.99, 0.50, 0.00, 1.0, 1, False),  # a core is free
        (0.99, 0.53, 0.00, 1.0, 1, True),
        (0.99, 0.10, 0.00, 9.0, 1, False),  # a load of the last minute that is over
        (0.99, None, None, 2.1, 1, True),  # without counters the load counts
        (0.99, None, None, 2.0, 1, False),
        (0.99, None, None, None, 1, False),
    ],
)
def test_each_sign_of_a_shared_machine_marks_the_cell(
    cpu: float,
    others: float | None,
    steal: float | None,
    load: float | None,
    threads: int,
    contended: bool,
) -> None:
    known = others is not None and steal is not None
    # 1 s of wall time on 2 cores.
    busy_s = cpu + 2 * (others or 0.0)
    stolen_s = busy_s * (steal or 0.0) / (1 - (steal or 0.0))
    seen: dict[str, Any] = {"cpu_s": cpu, "wall_s": 1.0, "load": load}
    seen |= {"busy_s": busy_s, "stolen_s": stolen_s} if known else dict.fromkeys(COUNTERS)
    assert ContentionMeter(2, **seen).contended(threads=threads) is contended
    if threads == 1 and cpu == 0.99 and steal is None:
        assert not ContentionMeter(None, **seen).contended(threads=1)


Clocks = Callable[..., None]


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """Return what sets the clocks and counters of the machine to the values that they will give."""

    def given(machine: list[MachineTimes | None], *, wall_s: list[int], cpu_s: list[int]) -> None:
        monkeypatch.setattr(time, "perf_counter", iter(wall_s).__next__)
        monkeypatch.setattr(time, "process_time", iter(cpu_s).__next__)
        monkeypatch.setattr(contention, "machine_times", iter(machine).__next__)
        monkeypatch.setattr(contention, "load_average", iter([1.5, 0.5]).__next__)

    return given


def spans(count: int) -> ContentionMeter:
    meter = ContentionMeter(cores=2)
    for _ in range(count):
        with meter:
            pass
    return meter


def test_the_meter_adds_up_its_spans_and_keeps_the_highest_load(clocks: Clocks) -> None:
    machine = [(100, 7), (103, 8), (500, 50), (505, 50)]
    clocks([MachineTimes(*one) for one in machine], wall_s=[0, 2, 5, 9], cpu_s=[0, 2, 2, 5])
    # 6 s of wall, 5 s of our own; the machine spent 3 + 5 s and lost 1 s, between spans nothing.
    found = spans(2)
    assert found.cpu_share == pytest.approx(5 / 6) and found.load == 1.5
    assert found.others_cpu_share == pytest.approx((8 - 5) / (6 * 2))
    assert found.steal_share == pytest.approx(1 / 9)
    assert found.values() == {
        "cpu_time_per_wall_time": 0.833,
        "others_cpu_share": 0.25,
        "steal_share": 0.111,
        "load_average_1min": 1.5,
    }


def test_a_counter_that_was_missing_once_is_not_guessed(clocks: Clocks) -> None:
    machine = [MachineTimes(1, 0), None, MachineTimes(2, 0), MachineTimes(3, 0)]
    clocks(machine, wall_s=[0, 10, 20, 30], cpu_s=[0, 10, 20, 30])
    found = spans(2)
    assert found.others_cpu_share is None and found.steal_share is None
    assert not found.contended(threads=1)


def test_ticks_that_fall_short_of_our_own_time_mean_no_others(clocks: Clocks) -> None:
    clocks([MachineTimes(1, 0)] * 2, wall_s=[0, 1], cpu_s=[0, 1])
    assert spans(1).others_cpu_share == 0.0


def test_the_counters_are_read_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr(contention, "_STAT", stat)
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    assert machine_times() is None
    stat.write_text("cpu  100 20 30 9999 888 4 6 50 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    assert machine_times() == MachineTimes(busy_s=1.6, steal_s=0.5)
    stat.write_text("nothing of the kind\n")
    assert machine_times() is None


def test_a_sleeping_process_is_seen_by_the_real_clocks() -> None:
    with (found := ContentionMeter()):
        time.sleep(0.05)
    assert found.cpu_share < 0.5 and found.contended(threads=1)


@pytest.mark.skipif(machine_times() is None, reason="this system counts no CPU time")
def test_a_busy_process_is_seen_by_the_real_counters() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as busy:
        try:
            assert busy.stdout is not None and busy.stdout.readline()
            with (found := ContentionMeter()):
                time.sleep(0.5)
        finally:
            busy.kill()
    others, cores = found.others_cpu_share, found.cores
    assert others is not None and cores is not None
    # Whoever is busy beside it, at least one core is.
    assert others * cores > 0.5
