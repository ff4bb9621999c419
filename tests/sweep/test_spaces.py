"""Ranges as text, drawing from them, and the ranges that stand beside a method's settings."""

from random import Random
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from bench.errors import ConfigError
from bench.method import METHODS, MethodConfig
from bench.plugins import method_config
from bench.spaces import (
    Choice,
    Integers,
    LogUniform,
    Space,
    Uniform,
    parse_params,
    parse_space,
    search_space,
)


@pytest.mark.parametrize(
    ("text", "space"),
    [
        ("0.1,0.3,1", Choice((0.1, 0.3, 1))),
        ("0.5", Choice((0.5,))),
        ("per image,constant", Choice(("per image", "constant"))),
        ("[1, 2],[3]", Choice(([1, 2], [3]))),
        ("uniform:0.3:0.9", Uniform(0.3, 0.9)),
        ("loguniform:1e-3:0.1", LogUniform(1e-3, 0.1)),
        ("int:2:8", Integers(2, 8)),
    ],
)
def test_a_range_reads_as_it_is_written(text: str, space: Space) -> None:
    assert parse_space(text, owner="x") == space
    assert parse_space(str(space), owner="x") == space


@pytest.mark.parametrize(
    "text",
    [
        *("", ",", "uniform:1:0", "uniform:a:b", "uniform:0", "loguniform:0:1", "int:0.5:2"),
        *("1,1", "[", "uniform:0:inf", "int:nan:2", "!!python/name:os.system", "*a", "&a 1,*a"),
    ],
)
def test_what_is_no_range_is_refused_in_words(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--param sgad\.gamma"):
        parse_space(text, owner="--param sgad.gamma")


def test_a_setting_has_one_range() -> None:
    with pytest.raises(ConfigError, match="twice"):
        parse_params(["sgad.gamma=1,2", "sgad.gamma=3"])
    with pytest.raises(ConfigError, match=r"METHOD\.KEY=RANGE"):
        parse_params(["gamma=1,2"])


@given(seed=st.integers(0, 2**32), low=st.floats(1e-6, 1e6), factor=st.floats(1.001, 1e6))
def test_draws_stay_within_their_range_and_are_short(seed: int, low: float, factor: float) -> None:
    for space in (Uniform(low, low * factor), LogUniform(low, low * factor)):
        value = space.draw(Random(seed))
        assert space.low <= value <= space.high
        assert value in (space.low, space.high) or float(f"{value:.4g}") == value
    assert 2 <= Integers(2, 5).draw(Random(seed)) <= 5


def test_a_logarithmic_draw_is_as_often_small_as_large() -> None:
    random = Random(0)
    draws = [LogUniform(0.001, 10).draw(random) for _ in range(2000)]
    assert 0.45 < sum(draw < 0.1 for draw in draws) / len(draws) < 0.55


def test_ranges_stand_beside_settings_and_leave_them_as_they_are() -> None:
    class Config(MethodConfig):
        tau: Annotated[float, LogUniform(0.01, 1)] = Field(0.1, gt=0)
        plain: float = 1.0

    assert search_space(Config) == {"tau": LogUniform(0.01, 1)}
    assert Config(tau=5).tau == 5  # a range is where to look, not what is allowed


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_accepts_all_that_its_own_ranges_propose(name: str) -> None:
    method = METHODS.get(name)
    for key, space in search_space(method.Config).items():
        for seed in range(20):
            method_config(method, {key: space.draw(Random(seed))})


def test_every_dynamic_method_has_something_to_search() -> None:
    dynamic = [name for name in METHODS.names() if METHODS.get(name).tags.role == "dynamic"]
    assert len(dynamic) >= 11
    assert [name for name in dynamic if not search_space(METHODS.get(name).Config)] == []
