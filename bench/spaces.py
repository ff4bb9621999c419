"""Ranges of settings: what a sweep draws from, written as text or beside a method's setting.

    0.1,0.3,1              these values
    uniform:0.3:0.9        any number between, ends included
    loguniform:0.01:1      any number between, evenly on a logarithmic scale
    int:2:8                any whole number between, ends included

A method gives its own in its Config: `tau: Annotated[float, LogUniform(0.001, 0.1)] = 0.01`.
Owns ranges and drawing from them; knows no method and no search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from pydantic import BaseModel

from bench.errors import ConfigError
from bench.plain_text import one_line, shown
from bench.plain_yaml import UnreadableYamlError, read_yaml

_LARGEST = 1e15
_FORMS = "Values with commas, uniform:LOW:HIGH, loguniform:LOW:HIGH or int:LOW:HIGH."


@dataclass(frozen=True)
class Choice:
    """These values and no others."""

    values: tuple[Any, ...]

    def draw(self, random: Random) -> Any:
        """Return one of the values."""
        return random.choice(self.values)

    def __str__(self) -> str:
        return ",".join(str(value) for value in self.values)


@dataclass(frozen=True)
class Uniform:
    """Numbers from `low` to `high`."""

    low: float
    high: float

    def draw(self, random: Random) -> float:
        """Return a number to four digits."""
        return self.tidy(random.uniform(self.low, self.high))

    def tidy(self, drawn: float) -> float:
        """Return it to four digits: a setting that people can read and type again."""
        return min(max(float(f"{drawn:.4g}"), self.low), self.high)

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()}:{self.low:g}:{self.high:g}"


class LogUniform(Uniform):
    """Numbers from `low` to `high`, both above 0, evenly on a logarithmic scale."""

    def draw(self, random: Random) -> float:
        return self.tidy(math.exp(random.uniform(math.log(self.low), math.log(self.high))))


@dataclass(frozen=True)
class Integers:
    """Whole numbers from `low` to `high`."""

    low: int
    high: int

    def draw(self, random: Random) -> int:
        """Return a whole number."""
        return random.randint(self.low, self.high)

    def __str__(self) -> str:
        return f"int:{self.low}:{self.high}"


Space = Choice | Uniform | Integers


def search_space(config: type[BaseModel]) -> dict[str, Space]:
    """Return the ranges that stand beside the settings of a method's Config."""
    return {
        name: item
        for name, field in config.model_fields.items()
        for item in field.metadata
        if isinstance(item, Space)
    }


def setting_in(item: str, option: str, *, form: str, like: str) -> tuple[str, str, str]:
    """Return method, key and value of a METHOD.KEY=VALUE item of an option.

    Raises:
        ConfigError: it has another form.
    """
    path, equals, text = item.partition("=")
    group, dot, key = path.strip().partition(".")
    if not (equals and dot and group and key):
        raise ConfigError(
            f"{option} {one_line(item, longest=80)}: not of the form METHOD.KEY={form}.",
            hint=f"Like {like}.",
        )
    return group, key, text


def parse_params(items: list[str]) -> dict[str, Space]:
    """Parse `METHOD.KEY=RANGE` items, one range for each setting.

    Raises:
        ConfigError: an item has another form, or a setting is given twice.
    """
    parsed: dict[str, Space] = {}
    for item in items:
        group, key, text = setting_in(item, "--param", form="RANGE", like="sgad.gamma=0.1,0.3,1")
        name = f"{group}.{key}"
        owner = f"--param {one_line(name)}"
        if name in parsed:
            raise ConfigError(f"{owner} is given twice.", hint=_FORMS)
        parsed[name] = parse_space(text, owner=owner)
    return parsed


def parse_space(text: str, *, owner: str) -> Space:
    """Return the range that `text` spells; `owner` is named in errors.

    Raises:
        ConfigError: it is none of the forms, or its ends are not in order.
    """
    kind, colon, ends = text.strip().partition(":")
    if colon and kind in {"uniform", "loguniform", "int"}:
        return _between(kind, ends, owner)
    return Choice(_values(text, owner))


def written(settings: Mapping[str, Any]) -> str:
    """Return settings as they are typed: "sgad.d_max=0.8 sgad.gamma=0.3"."""
    return " ".join(f"{name}={value}" for name, value in settings.items())


def _between(kind: str, ends: str, owner: str) -> Space:
    try:
        low, high = (float(part) for part in ends.split(":"))
    except ValueError:
        raise ConfigError(f"{owner}: {shown(ends)} is not LOW:HIGH.", hint=_FORMS) from None
    if not low < high:
        raise ConfigError(f"{owner}: {low:g} is not below {high:g}.", hint=_FORMS)
    if max(-low, high) > _LARGEST:
        raise ConfigError(f"{owner}: a range ends at most at {_LARGEST:g}.", hint=_FORMS)
    if kind == "loguniform" and low <= 0:
        raise ConfigError(f"{owner}: a logarithmic range starts above 0, not at {low:g}.")
    if kind != "int":
        return Uniform(low, high) if kind == "uniform" else LogUniform(low, high)
    if low != int(low) or high != int(high):
        raise ConfigError(f"{owner}: int:{one_line(ends)} has ends that are not whole.")
    return Integers(int(low), int(high))


def _values(text: str, owner: str) -> tuple[Any, ...]:
    try:
        values = read_yaml(f"[{text}]")
    except UnreadableYamlError:
        values = None
    if not isinstance(values, list) or not values or None in values:
        raise ConfigError(f"{owner}: {shown(text)} is not a range.", hint=_FORMS)
    if any(value in values[:place] for place, value in enumerate(values)):
        raise ConfigError(f"{owner}: a value stands twice in {shown(text)}.")
    return tuple(values)
