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
        if name in parsed:
            raise ConfigError(f"--param {one_line(name)} is given twice.", hint=_FORMS)
        parsed[name] = parse_space(text, owner=f"--param {one_line(name)}")
    return parsed


def parse_space(text: str, *, owner: str) -> Space:
    """Return the range that `text` spells; `owner` is named in errors.

    Raises:
        ConfigError: it is none of the forms, or its ends are not in order.
    """
    kind, colon, ends = text.strip().partition(":")
    try:
        if colon and kind in {"uniform", "loguniform", "int"}:
            return _between(kind, *ends.split(":"))
        return Choice(_values(text))
    except (ValueError, TypeError, UnreadableYamlError) as error:
        said = one_line(str(error), longest=80)
        raise ConfigError(f"{owner}: {shown(text)} is not a range: {said}.", hint=_FORMS) from None


def written(settings: Mapping[str, Any]) -> str:
    """Return settings as they are typed: "sgad.d_max=0.8 sgad.gamma=0.3"."""
    return " ".join(f"{name}={value}" for name, value in settings.items())


def _between(kind: str, low_text: str, high_text: str) -> Space:
    low, high = float(low_text), float(high_text)
    if not low < high or not math.isfinite(high - low):
        raise ValueError(f"{low:g} is not below {high:g}")
    if kind == "int":
        return Integers(int(low_text), int(high_text))
    if kind == "loguniform" and low <= 0:
        raise ValueError(f"a logarithmic range starts above 0, not at {low:g}")
    return Uniform(low, high) if kind == "uniform" else LogUniform(low, high)


def _values(text: str) -> tuple[Any, ...]:
    values = read_yaml(f"[{text}]")
    if not isinstance(values, list) or not values or None in values:
        raise ValueError("values are missing")
    if any(value in values[:place] for place, value in enumerate(values)):
        raise ValueError("a value stands twice")
    return tuple(values)
