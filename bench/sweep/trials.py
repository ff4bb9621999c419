"""From what a user asks to trials: ranges of each method, and the run that a try stands for.

Owns what is varied and the meaning of a try; proposes and runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.config import RunSpec
from bench.data.images import Dataset
from bench.engine.plan import TRAIN_GROUP, Request, make_plan, request_of
from bench.errors import ConfigError
from bench.method import METHODS
from bench.networks.weights import Weights
from bench.recipes import recipe_named
from bench.spaces import LogUniform, Space, parse_params, search_space
from bench.sweep.options import SweepOptions
from bench.sweep.tries import Try

_LR_AROUND = 3.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a sweep: a try with a seed, and its spec; `needs` is the run it starts from."""

    tried: Try
    seed: int
    spec: RunSpec
    needs: RunSpec | None = None


@dataclass(frozen=True, slots=True)
class Planner:
    """Turns tries into trials: the same specs that `bench run --held-out N` would make."""

    request: Request
    dataset: Dataset
    weights: Weights | None

    def trials(self, tried: Try, seeds: Sequence[int]) -> list[Trial]:
        """Return the trials of a try, one for each seed.

        Raises:
            ConfigError: a setting does not exist, or has a value that the method refuses.
        """
        request = replace(
            self.request,
            methods=(tried.method,),
            seeds=tuple(seeds),
            settings=self._settings(tried),
        )
        size = len(self.dataset.train)
        plan = make_plan(request, self.dataset.info, train_size=size, weights=self.weights)
        return [Trial(tried, item.spec.seed, item.spec, item.needs) for item in plan]

    def _settings(self, tried: Try) -> dict[str, dict[str, Any]]:
        known = {tried.method, TRAIN_GROUP}
        groups = {name: dict(g) for name, g in self.request.settings.items() if name in known}
        for name, value in tried.settings.items():
            group, _, key = name.partition(".")
            groups.setdefault(group, {})[key] = value
        return groups


def planner(options: SweepOptions, dataset: Dataset, weights: Weights | None) -> Planner:
    """Return the planner of a sweep; without --held-out a tenth of the images is held out.

    Raises:
        UnknownNameError: there is no such method.
        ConfigError: settings or ranges speak of methods that are not in the sweep.
    """
    request = request_of(options)
    groups = {name.partition(".")[0] for name in options.params} | set(request.settings)
    for name in sorted(groups - {*request.methods, TRAIN_GROUP}):
        METHODS.get(name)
        raise ConfigError(
            f"'{name}' has settings here and is not in this sweep.",
            hint=f"In this sweep: {', '.join([*request.methods, TRAIN_GROUP])}.",
        )
    held_out = request.held_out or len(dataset.train) // 10
    return Planner(replace(request, held_out=held_out), dataset, weights)


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
