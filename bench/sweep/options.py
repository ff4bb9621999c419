"""What `bench sweep` can be told: all that `bench run` can, what to vary; how good a trial is.

That is one number or both, from accuracy and cost on held-out images: the test set has no part in
it. Owns the defaults of sweeps, the objectives and their words.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

from bench.analysis.pareto import Point, front, hypervolume
from bench.errors import ConfigError
from bench.options import Name, RunOptions
from bench.recipes import Precision
from bench.spaces import parse_params


class SweepOptions(RunOptions):
    """The options of `bench sweep`.

    `params` maps METHOD.KEY to a range as text; a method that is named in none of them is searched
    over its own ranges. `search` is "" for: a grid where all ranges are lists, else at random.
    `budget` names the objective: held-out accuracy at no more than this nFLOPs; without it, the
    hypervolume of a trial's points, and with `search` "pareto" both accuracy and nFLOPs. Trials are
    not timed: those that run side by side disturb each other. Nor is their precision chosen by one.
    """

    methods: tuple[str, ...] = Field(
        ("sgad",), min_length=1, description="Names with commas, or all. Default: sgad."
    )
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="METHOD.KEY=VALUE or train.KEY=VALUE for all trials."
    )
    precision: Precision = Field("fp32", description="Precision that the trials train in.")
    held_out: PositiveInt = Field(  # 0, where not given, is a tenth
        0, description="Training images to choose by. Default: a tenth."
    )
    controls: tuple[Literal["none"], ...] = ("none",)
    sources: tuple[()] = ()
    latency: Literal["off"] = "off"
    workers: PositiveInt | None = None
    runtimes: tuple[Name, ...] = ()
    params: dict[str, str] = Field(
        default_factory=dict,
        description="METHOD.KEY=RANGE, repeatable: 0.1,0.3,1 or uniform:0.3:0.9 or "
        "loguniform:0.01:1 or int:2:8. Without any, a method is searched over its own ranges.",
    )
    search: Literal["", "grid", "random", "optuna", "pareto"] = Field(
        "", description="Default: grid where all ranges are lists, else random."
    )
    samples: PositiveInt | None = Field(
        None, description="Settings tried for each method. Default: 8."
    )
    scheduler: Literal["fifo", "asha", "median"] = Field(
        "fifo", description="Which trials are stopped early. Default: fifo, none."
    )
    budget: PositiveFloat | None = Field(
        None,
        description="Choose by accuracy at no more than this nFLOPs. Default: hypervolume.",
    )
    threads: PositiveInt = Field(1, description="Cores and threads. Default: 1.")
    gpus_per_trial: NonNegativeFloat | None = Field(
        None, description="A fraction lets trials share one."
    )
    time_limit_s: PositiveFloat | None = Field(
        None, description="Seconds after which a trial has failed."
    )
    address: str = Field(
        default_factory=lambda: os.environ.get("RAY_ADDRESS", ""),
        description="Of a Ray cluster, or auto. Default: this machine.",
    )

    @field_validator("params", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        # A YAML file may have a list.
        return {
            name: ",".join(map(str, given)) if isinstance(given, list) else str(given)
            for name, given in value.items()
        }

    @field_validator("params")
    @classmethod
    def _readable(cls, value: dict[str, str]) -> dict[str, str]:
        spaces = parse_params([f"{name}={text}" for name, text in value.items()])
        return {name: str(space) for name, space in spaces.items()}


WORST_COST = 1.1
"""A tenth beyond the dense network, which so counts itself (Ishibuchi et al. 2018)."""


@dataclass(frozen=True, slots=True)
class Objective:
    """Accuracy at no more than `budget` nFLOPs; without a budget, the hypervolume.

    With a budget, a trial within it counts by its accuracy and any other by how far it lies beyond,
    always below all that keep to it (Deb 2000: feasibility first). The hypervolume is the area
    between a trial's own points and a corner of no use: more expensive than the dense network, and
    no better than guessing.
    """

    budget: float | None
    num_classes: int

    @property
    def corner(self) -> Point:
        """The cost and the accuracy from which areas are measured."""
        return WORST_COST, 1 / self.num_classes

    def score(self, points: Iterable[Point]) -> float:
        """Return the score of a trial with these points (cost, accuracy).

        Raises:
            ValueError: there are no points.
        """
        listed = list(points)
        if self.budget is None:
            cost, accuracy = self.corner
            return hypervolume(listed, worst_cost=cost, worst_accuracy=accuracy)
        budget = self.budget
        return max(accuracy if cost <= budget else budget - cost for cost, accuracy in listed)

    def values(self, points: Sequence[Point]) -> tuple[float, ...]:
        """Return what a search is told of a trial: all to be as large as possible."""
        return (self.score(points),)

    def chosen(self, values: Sequence[tuple[float, ...]]) -> list[int]:
        """Return which of several settings are chosen by their mean values."""
        return [max(range(len(values)), key=lambda index: values[index])] if values else []

    def allows(self, points: Iterable[Point]) -> bool:
        """Whether a trial with these points keeps to the budget, if there is one."""
        return self.budget is None or any(cost <= self.budget for cost, _ in points)

    def sentence(self) -> str:
        """Return what is chosen by, in words."""
        if self.budget is None:
            cost, accuracy = self.corner
            return (
                "largest hypervolume of (nFLOPs, accuracy) on held-out training images, "
                f"from the corner ({cost:g}, {accuracy:g})"
            )
        return (
            "highest accuracy on held-out training images "
            f"at no more than {self.budget:g} of the dense network's MACs"
        )


class BothObjectives(Objective):
    """Accuracy and cost, neither weighed against the other: what is chosen is a front."""

    __slots__ = ()

    def values(self, points: Sequence[Point]) -> tuple[float, ...]:
        """Return accuracy and negative cost of the operating point with the largest area."""
        cost, accuracy = max(points, key=lambda point: (self.score([point]), point[1], -point[0]))
        return accuracy, -cost

    def chosen(self, values: Sequence[tuple[float, ...]]) -> list[int]:
        return front([(-cost, accuracy) for accuracy, cost in values])

    def sentence(self) -> str:
        return "Pareto front of (nFLOPs, accuracy) on held-out training images"


def objective_of(options: SweepOptions, num_classes: int) -> Objective:
    """Return what a sweep looks for.

    Raises:
        ConfigError: it cannot be had with the other options.
    """
    if options.search != "pareto":
        return Objective(options.budget, num_classes)
    if options.scheduler != "fifo" or options.budget:
        raise ConfigError(
            "--search pareto stops no trial early and has no budget.",
            hint="Optuna forbids pruning with several objectives. For one number, with --scheduler "
            "or --budget: --search optuna.",
        )
    return BothObjectives(None, num_classes)


def point_of(row: Mapping[str, float]) -> Point | None:
    """Return (nFLOPs, accuracy) on held-out images after an epoch, from the values of its row."""
    if "nflops_held_out" not in row or "accuracy_held_out" not in row:
        return None
    return row["nflops_held_out"], row["accuracy_held_out"]
