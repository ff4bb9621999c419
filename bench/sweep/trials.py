"""From what a user asks to trials: what is varied, who proposes it, which run a try stands for.

A grid, a random draw or Optuna, one search for each method: all are asked in turn and told what
their proposals reached. Runs nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from bench.data.images import Dataset
from bench.engine.plan import TRAIN_GROUP, Planned, make_plan, resolved
from bench.errors import ConfigError
from bench.method import METHODS
from bench.networks.weights import Weights
from bench.options import RunOptions
from bench.recipes import recipe_named
from bench.seeding import derive
from bench.spaces import Choice, Integers, LogUniform, Space, Uniform, parse_params, search_space
from bench.sweep.options import SweepOptions

_DEFAULT_SAMPLES = 8
_REDRAWS = 100
_STARTUP = 10


@dataclass(frozen=True, slots=True)
class Proposal:
    """Settings of one method to be tried: "sgad.gamma" -> 0.3; `number` counts from 0."""

    method: str
    number: int
    settings: Mapping[str, Any]


class Search:
    """A search over settings of one method that are known from the start; learns nothing.

    `total` is how many proposals there are at most.
    """

    def __init__(self, method: str, settings: Sequence[Mapping[str, Any]]) -> None:
        self.method, self.total = method, len(settings)
        self._left = iter([Proposal(method, number, one) for number, one in enumerate(settings)])

    def ask(self) -> Proposal | None:
        """Return the next proposal; None when there are no more."""
        return next(self._left, None)

    def tell(self, tried: Proposal, values: Sequence[float] | None) -> None:
        """Take what a proposal reached in each objective, the mean over its seeds, more being
        better; None if it reached nothing."""


def _grid(spaces: Mapping[str, Space]) -> list[dict[str, Any]]:
    """Return all combinations of the values of `spaces`, in their order.

    Raises:
        ConfigError: a range has no list of values.
    """
    lists: list[tuple[Any, ...]] = []
    for name, space in spaces.items():
        if not isinstance(space, Choice):
            raise ConfigError(
                f"A grid needs values, and {name} has the range {space}.",
                hint="Give values like 0.1,0.3,1, or use --search random --samples N.",
            )
        lists.append(space.values)
    return [dict(zip(spaces, values, strict=True)) for values in itertools.product(*lists)]


def _different(method: str, spaces: Mapping[str, Space]) -> Iterator[dict[str, Any]]:
    """Yield different draws, as many as are asked for or the ranges hold, always the same."""
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


class OptunaSearch(Search):
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
        try:
            import optuna
        except ImportError:
            raise ConfigError(
                "--search optuna and pareto need the package optuna.",
                hint="pip install 'skipbench[search]', or use --search random.",
            ) from None
        self.method, self.total = method, samples if spaces else 1
        self._spaces, self._asked = spaces, 0
        self._distributions = {name: _distribution(space) for name, space in spaces.items()}
        # Trials run side by side: one that is still running counts as a poor one, so that the next
        # proposal goes elsewhere.
        sampler = optuna.samplers.TPESampler(
            seed=derive(0, "optuna", method) % 2**32, constant_liar=True, n_startup_trials=_STARTUP
        )
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        maximize = optuna.study.StudyDirection.MAXIMIZE
        self._study = optuna.create_study(directions=[maximize] * objectives, sampler=sampler)
        drawn = itertools.islice(_different(method, spaces), len(known), _STARTUP)
        for settings in (*known, *drawn):
            # A choice by its place: a value may be a list, which Optuna does not take.
            lists = {n: space.values for n, space in spaces.items() if isinstance(space, Choice)}
            told = {n: lists[n].index(v) if n in lists else v for n, v in settings.items()}
            self._study.enqueue_trial(told)

    def ask(self) -> Proposal | None:
        if self._asked == self.total:
            return None
        self._asked += 1
        trial = self._study.ask(self._distributions)
        settings = {name: _value(self._spaces[name], told) for name, told in trial.params.items()}
        return Proposal(self.method, trial.number, settings)

    def tell(self, tried: Proposal, values: Sequence[float] | None) -> None:
        import optuna

        if values is None or not all(map(math.isfinite, values)):
            self._study.tell(tried.number, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(tried.number, values)


def _value(space: Space, told: Any) -> Any:
    """Return the value of a setting that Optuna proposes."""
    if isinstance(space, Choice):
        return space.values[told]
    return space.tidy(told) if isinstance(space, Uniform) else told


def _distribution(space: Space) -> Any:
    from optuna import distributions

    if isinstance(space, Choice):
        return distributions.CategoricalDistribution(range(len(space.values)))
    if isinstance(space, Integers):
        return distributions.IntDistribution(space.low, space.high)
    log = isinstance(space, LogUniform)
    return distributions.FloatDistribution(space.low, space.high, log=log)


def proposals(
    search: str,
    method: str,
    spaces: Mapping[str, Space],
    *,
    samples: int | None,
    known: Sequence[Mapping[str, Any]] = (),
) -> Search:
    """Return the search that is called `search` in the options of a sweep.

    `known` are settings that an earlier, interrupted sweep with the same options proposed.

    Raises:
        ConfigError: the ranges do not fit it.
    """
    listed = all(isinstance(space, Choice) for space in spaces.values())
    chosen = search or ("grid" if listed and samples is None else "random")
    if chosen == "grid":
        if samples is not None:
            raise ConfigError("A grid has no --samples.", hint="Use --search random.")
        return Search(method, _grid(spaces))
    count = samples or _DEFAULT_SAMPLES
    if chosen == "random":
        return Search(method, list(itertools.islice(_different(method, spaces), count)))
    objectives = 2 if chosen == "pareto" else 1
    return OptunaSearch(method, spaces, samples=count, objectives=objectives, known=known)


_LR_AROUND = 3.0


@dataclass(frozen=True, slots=True)
class Planner:
    """Turns tries into trials: the same runs that `bench run --held-out N` would do."""

    options: RunOptions
    dataset: Dataset
    weights: Weights | None

    def trials(self, tried: Proposal, seeds: Sequence[int]) -> list[Planned]:
        """Return the trials of a try, one for each seed.

        Raises:
            ConfigError: a setting does not exist, or has a value that the method refuses.
        """
        known = {tried.method, TRAIN_GROUP}
        groups = {name: dict(g) for name, g in self.options.settings.items() if name in known}
        for name, value in tried.settings.items():
            group, _, key = name.partition(".")
            groups.setdefault(group, {})[key] = value
        asked = {"methods": (tried.method,), "seeds": tuple(seeds), "settings": groups}
        options, size = self.options.model_copy(update=asked), len(self.dataset.train)
        return make_plan(options, self.dataset.info, train_size=size, weights=self.weights)


def planner(options: SweepOptions, dataset: Dataset, weights: Weights | None) -> Planner:
    """Return the planner of a sweep; without --held-out a tenth of the images is held out.

    Raises:
        UnknownNameError: there is no such method.
        ConfigError: settings or ranges speak of methods that are not in the sweep.
    """
    asked = resolved(options)
    groups = {name.partition(".")[0] for name in options.params} | set(asked.settings)
    for name in sorted(groups - {*asked.methods, TRAIN_GROUP}):
        METHODS.get(name)
        raise ConfigError(
            f"'{name}' has settings here and is not in this sweep.",
            hint=f"In this sweep: {', '.join([*asked.methods, TRAIN_GROUP])}.",
        )
    held_out = asked.held_out or len(dataset.train) // 10
    return Planner(asked.model_copy(update={"held_out": held_out}), dataset, weights)


def spaces_of(method: str, options: SweepOptions) -> dict[str, Space]:
    """Return what is varied for `method`: the ranges given for it and for train.KEY.

    Where none is given for it, its own, and the learning rate around the recipe's, so that every
    method, a static network too, has as many different settings to try as any other.
    """
    given = parse_params([f"{name}={text}" for name, text in options.params.items()])
    mine = {name: space for name, space in given.items() if name.startswith(f"{method}.")}
    if not mine:
        fixed = options.settings.get(method, {})
        own = search_space(METHODS.get(method).Config)
        mine = {f"{method}.{key}": space for key, space in own.items() if key not in fixed}
        if "lr" not in options.settings.get(TRAIN_GROUP, {}):
            lr = recipe_named(options.recipe).optimizer.lr
            mine[f"{TRAIN_GROUP}.lr"] = LogUniform(lr / _LR_AROUND, lr * _LR_AROUND)
    return mine | {n: space for n, space in given.items() if n.startswith(f"{TRAIN_GROUP}.")}
