"""Whether the machine was shared while something was timed, and by how much.

Looks at this process, at all others through the kernel's counters, and at the load average where
there are no counters. Owns no clock of the samples and no record.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bench.measure.environment import load_average

LEAST_CPU_SHARE = 0.95
MOST_STEAL_SHARE = 0.05
_STAT = Path("/proc/stat")


class MachineTimes(NamedTuple):
    """Seconds of CPU time since boot, over all cores: spent, and taken by the host of the VM."""

    busy_s: float
    steal_s: float


def machine_times() -> MachineTimes | None:
    """Return the kernel's counters; None where it has none (macOS, Windows)."""
    try:
        fields = _STAT.read_text().partition("\n")[0].split()
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
        tick_s = 1 / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
    return MachineTimes((user + nice + system + irq + softirq) * tick_s, steal * tick_s)


@dataclass(frozen=True, slots=True)
class Sharing:
    """What was seen while something was timed; None where the system does not tell.

    `cpu_share` is CPU time of this process / wall time; `others_cpu_share` CPU time of all other
    processes / (wall time x cores); `steal_share` what the host took of all CPU time asked for.
    """

    cpu_share: float
    others_cpu_share: float | None
    steal_share: float | None
    load: float | None
    cores: int | None

    def contended(self, *, threads: int) -> bool:
        """Whether others took so much that the times may be theirs.

        With several threads the CPU share says little. The load average is of the last minute, so
        it counts only where nothing better is known.
        """
        starved = threads == 1 and self.cpu_share < LEAST_CPU_SHARE
        stolen = self.steal_share is not None and self.steal_share > MOST_STEAL_SHARE
        return starved or stolen or self._crowded(threads)

    def _crowded(self, threads: int) -> bool:
        if self.cores is None:
            return False
        if self.others_cpu_share is None:
            return self.load is not None and self.load > self.cores
        free_cores = self.cores * (1 - self.others_cpu_share)
        return free_cores < LEAST_CPU_SHARE * threads

    def values(self) -> dict[str, float | None]:
        """Return the numbers under the names they have in a record."""
        return {
            "cpu_time_per_wall_time": round(self.cpu_share, 3),
            "others_cpu_share": _rounded(self.others_cpu_share),
            "steal_share": _rounded(self.steal_share),
            "load_average_1min": self.load,
        }


@dataclass(slots=True)
class ContentionMeter:
    """CPU time, wall time, what others took and the highest load over the spans it is entered for.

    `others_cpu_s` and `stolen_s` are over all cores; None once a counter was missing.
    """

    wall_ns: Callable[[], int] = time.perf_counter_ns
    cpu_ns: Callable[[], int] = time.process_time_ns
    machine: Callable[[], MachineTimes | None] = machine_times
    load: Callable[[], float | None] = load_average
    cores: int | None = field(default_factory=os.cpu_count)
    cpu_spent_ns: int = 0
    wall_spent_ns: int = 0
    busy_s: float = 0.0
    stolen_s: float = 0.0
    uncounted: bool = False
    highest_load: float | None = None
    _before: MachineTimes | None = None

    def __enter__(self) -> ContentionMeter:
        self._before = self.machine()
        self.cpu_spent_ns -= self.cpu_ns()
        self.wall_spent_ns -= self.wall_ns()
        return self

    def __exit__(self, *exception: object) -> None:
        self.wall_spent_ns += self.wall_ns()
        self.cpu_spent_ns += self.cpu_ns()
        self._count(self._before, self.machine())
        load = self.load()
        if load is not None:
            self.highest_load = max(load, self.highest_load or 0.0)

    def _count(self, before: MachineTimes | None, after: MachineTimes | None) -> None:
        if before is None or after is None:
            self.uncounted = True
            return
        self.busy_s += after.busy_s - before.busy_s
        self.stolen_s += after.steal_s - before.steal_s

    @property
    def sharing(self) -> Sharing:
        """What was seen so far; before anything was measured, a machine of one's own."""
        wall_s, cpu_s = self.wall_spent_ns / 1e9, self.cpu_spent_ns / 1e9
        cpu_share = cpu_s / wall_s if wall_s else 1.0
        others = steal = None
        if wall_s and self.cores and not self.uncounted:
            others = max(0.0, self.busy_s - cpu_s) / (wall_s * self.cores)
            asked_s = self.busy_s + self.stolen_s
            steal = self.stolen_s / asked_s if asked_s else 0.0
        return Sharing(cpu_share, others, steal, self.highest_load, self.cores)


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 3)
