"""Who proposes settings: a grid, a random draw, or Optuna, one search for each method.

All three are asked in turn and told the score of what they proposed. Owns the proposals; runs and
plans nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from bench.errors import ConfigError, UnknownNameError
from bench.seeding import derive
from bench.spaces import Choice, LogUniform, Space, Uniform, Whole, tidy

DEFAULT_SAMPLES = 8
_REDRAWS = 100
_STARTUP = 10


@dataclass(frozen=True, slots=True)
class Try:
    """Settings of one method to be tried: "sgad.gamma" -> 0.3; `number` counts from 0."""

    method: str
    number: int
    settings: Mapping[str, Any]


class Proposals(Protocol):
    """A search over the settings of one method."""

    total: int
    """How many proposals there will be, at most."""

    def ask(self) -> Try | None:
        """Return the next proposal; None when there are no more."""

    def tell(self, tried: Try, values: Sequence[float] | None) -> None:
        """Take what a proposal reached in each objective, the mean over its seeds, more being
        better; None if it reached nothing."""


class Listed:
    """Proposals that are known from the start and learn nothing."""

    def __init__(self, tries: Sequence[Try]) -> None:
        self.total = len(tries)
        self._left = iter(tries)

    def ask(self) -> Try | None:
        return next(self._left, None)

    def tell(self, tried: Try, values: Sequence[float] | None) -> None:
        del tried, values


def grid(method: str, spaces: Mapping[str, Space]) -> Listed:
    """Return all combinations of the values of `spaces`, in their order.

    Raises:
        ConfigError: a range has no list of values.
    """
    for name, space in spaces.items():
        if not isinstance(space, Choice):
            raise ConfigError(
                f"A grid needs values, and {name} has the range {space}.",
                hint="Give values like 0.1,0.3,1, or use --search random --samples N.",
            )
    lists = [space.values for space in spaces.values() if isinstance(space, Choice)]
    combinations = itertools.product(*lists)
    return Listed(
        [
            Try(method, number, dict(zip(spaces, values, strict=True)))
            for number, values in enumerate(combinations)
        ]
    )


def at_random(method: str, spaces: Mapping[str, Space], *, samples: int) -> Listed:
    """Return `samples` different draws; the first are the same however many are asked for.

    Fewer where the ranges hold fewer different settings.
    """
    drawn = itertools.islice(_different(method, spaces), samples)
    return Listed([Try(method, number, settings) for number, settings in enumerate(drawn)])


def _different(method: str, spaces: Mapping[str, Space]) -> Iterator[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    for number in itertools.count():
        random = Random(derive(number, "sweep", method))
        for _ in range(_REDRAWS):
            settings = {name: space.draw(random) for name, space in spaces.items()}
            if settings not in seen:
                break
        else:
            return
        seen.append(settings)
        yield settings


class Optuna:
    """Optuna's tree-structured Parzen estimator, told what its proposals reached in each objective.

    With two it is the multi-objective one (Ozaki et al. 2022), which learns from a dozen trials;
    NSGA-II would draw a first population of 50. It begins with the settings in `known`, what it
    proposed before a sweep was interrupted, and with the draws of a random search.
    """

    def __init__(
        self,
        method: str,
        spaces: Mapping[str, Space],
        *,
        samples: int,
        objectives: int,
        known: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        optuna = _optuna()
        self.total = samples if spaces else 1
        self._method, self._spaces, self._asked = method, spaces, 0
        self._distributions = {name: _distribution(space) for name, space in spaces.items()}
        seed = derive(0, "optuna", method) % 2**32
        # Trials run side by side: one that is still running counts as a poor one, so that the next
        # proposal goes elsewhere.
        sampler = optuna.samplers.TPESampler(
            seed=seed, constant_liar=True, n_startup_trials=_STARTUP
        )
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        directions = ["maximize"] * objectives
        self._study = optuna.create_study(directions=directions, sampler=sampler)
        drawn = itertools.islice(_different(method, spaces), len(known), _STARTUP)
        for settings in (*known, *drawn):
            self._study.enqueue_trial(
                {name: _told_to_optuna(value, spaces[name]) for name, value in settings.items()}
            )
        self._trials: dict[int, Any] = {}

    def ask(self) -> Try | None:
        if self._asked == self.total:
            return None
        number, self._asked = self._asked, self._asked + 1
        trial = self._study.ask(self._distributions)
        self._trials[number] = trial
        told = trial.params.items()
        settings = {name: _told_by_optuna(value, self._spaces[name]) for name, value in told}
        return Try(self._method, number, settings)

    def tell(self, tried: Try, values: Sequence[float] | None) -> None:
        import optuna

        trial = self._trials.pop(tried.number)
        if values is None or not all(map(math.isfinite, values)):
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(trial, values)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "--search optuna and pareto need the package optuna.",
            hint="pip install 'skipbench[search]', or use --search random.",
        ) from None
    return optuna


def _told_to_optuna(value: Any, space: Space) -> Any:
    return space.values.index(value) if isinstance(space, Choice) else value


def _told_by_optuna(value: Any, space: Space) -> Any:
    return space.values[value] if isinstance(space, Choice) else tidy(value, space)


def _distribution(space: Space) -> Any:
    from optuna import distributions

    match space:
        case Choice():
            # By their place: a value may be a list, which Optuna does not take.
            return distributions.CategoricalDistribution(range(len(space.values)))
        case Whole():
            return distributions.IntDistribution(space.low, space.high)
        case Uniform():
            return distributions.FloatDistribution(space.low, space.high)
        case LogUniform():
            return distributions.FloatDistribution(space.low, space.high, log=True)


_OBJECTIVES = {"optuna": 1, "pareto": 2}
SEARCHES = ("grid", "random", *_OBJECTIVES)


def proposals(
    search: str,
    method: str,
    spaces: Mapping[str, Space],
    *,
    samples: int | None,
    known: Sequence[Mapping[str, Any]] = (),
) -> Proposals:
    """Return the search called `search` ("" for: a grid where it can be one, else random).

    `known` are settings that an earlier, interrupted sweep with the same options proposed.

    Raises:
        UnknownNameError: there is no such search.
        ConfigError: the ranges do not fit it.
    """
    listed = all(isinstance(space, Choice) for space in spaces.values())
    chosen = search or ("grid" if listed and samples is None else "random")
    if chosen == "grid":
        if samples is not None:
            raise ConfigError("A grid has no --samples.", hint="Use --search random.")
        return grid(method, spaces)
    if chosen == "random":
        return at_random(method, spaces, samples=samples or DEFAULT_SAMPLES)
    if chosen in _OBJECTIVES:
        return Optuna(
            method,
            spaces,
            samples=samples or DEFAULT_SAMPLES,
            objectives=_OBJECTIVES[chosen],
            known=known,
        )
    raise UnknownNameError("search", search, SEARCHES)
