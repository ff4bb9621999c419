"""How long latency is measured: the profiles smoke, default and publish. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Profile:
    """How long one cell (a network at a batch size) is timed.

    All networks take turns in `rounds` rounds of at least `round_s` seconds and `round_calls`
    calls each. More rounds follow until every cell has converged or one has spent `max_time_s`.
    Warm-up lasts at least `warmup_calls` calls and `warmup_s` seconds, then on until every unit has
    run or `coverage_images` images have been seen. With several `processes` each is a fresh one
    that proves, warms up and times its part of the rounds, and memory is measured in others: drift
    between processes is seen by no statistic within one. `batch_sizes` are timed where none are
    asked for.
    """

    name: str
    round_s: float
    max_time_s: float
    rounds: int = 5
    round_calls: int = 2
    warmup_calls: int = 10
    warmup_s: float = 1.0
    coverage_images: int = 1024
    processes: int = 1
    batch_sizes: tuple[int, ...] = (1, 256)

    @property
    def part(self) -> Profile:
        """What one of the processes does."""
        return replace(
            self,
            rounds=math.ceil(self.rounds / self.processes),
            max_time_s=self.max_time_s / self.processes,
            processes=1,
        )


PROFILES: Mapping[str, Profile] = {
    "smoke": Profile(
        "smoke",
        round_s=0.04,
        max_time_s=0.25,
        warmup_calls=3,
        warmup_s=0.05,
        coverage_images=128,
        batch_sizes=(1,),
    ),
    "default": Profile("default", round_s=0.4, max_time_s=8.0),
    "publish": Profile("publish", round_s=60.0, max_time_s=600.0, rounds=6, processes=3),
}
