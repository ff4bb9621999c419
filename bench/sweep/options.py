"""What `bench sweep` can be told: all that `bench run` can, and what to vary.

Owns the defaults of sweeps; the laying over of options and YAML is options.py's.
"""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

from bench.options import Name, RunOptions
from bench.recipes import Precision
from bench.spaces import parse_params


class SweepOptions(RunOptions):
    """The options of `bench sweep`.

    `params` maps METHOD.KEY to a range as text; a method that is named in none of them is searched
    over its own ranges. `search` is "" for: a grid where all ranges are lists, else at random.
    `budget` names the objective: held-out accuracy at no more than this nFLOPs; without it, the
    hypervolume of a trial's points, and with `search` "pareto" both `objectives`: accuracy, and
    nflops or latency_ms:RUNTIME. Only with the latter trials are timed, one after the other: those
    that run side by side disturb each other. Nor is their precision chosen by a trial.
    """

    methods: tuple[str, ...] = Field(("sgad",), min_length=1)
    controls: tuple[Literal["none"], ...] = ("none",)
    sources: tuple[()] = ()
    precision: Precision = "fp32"
    latency: Literal["off"] = "off"
    params: dict[str, str] = Field(default_factory=dict)
    search: Literal["", "grid", "random", "optuna", "pareto"] = ""
    objectives: tuple[Name, ...] = ("accuracy", "nflops")
    samples: PositiveInt | None = None
    scheduler: Literal["fifo", "asha", "median"] = "fifo"
    budget: PositiveFloat | None = None
    threads: PositiveInt = 1
    gpus_per_trial: NonNegativeFloat | None = None
    address: str = Field(default_factory=lambda: os.environ.get("RAY_ADDRESS", ""))
    time_limit_s: PositiveFloat | None = None

    @field_validator("objectives", mode="before")
    @classmethod
    def _parts(cls, value: Any) -> Any:
        return tuple(p.strip() for p in value.split(",")) if isinstance(value, str) else value

    @field_validator("params", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: _range_of(given) for name, given in value.items()}

    @field_validator("params")
    @classmethod
    def _readable(cls, value: dict[str, str]) -> dict[str, str]:
        spaces = parse_params([f"{name}={text}" for name, text in value.items()])
        return {name: str(space) for name, space in spaces.items()}


def _range_of(given: Any) -> Any:
    """Return what a YAML file says of a range (a list, or text) as text."""
    if isinstance(given, list):
        return ",".join(str(item) for item in given)
    return given if isinstance(given, str) else str(given)
