"""What must hold for every registered method: the conformance suite over the registry."""

from __future__ import annotations

import math

import pytest

from bench.engine.plan import METHODS, method_config
from bench.errors import ConfigError
from bench.testing import Check, checks_of

NAMES = METHODS.names()
over_names = pytest.mark.parametrize("name", NAMES)


@pytest.mark.parametrize(
    "check", [check for name in NAMES for check in checks_of(METHODS.get(name))], ids=str
)
def test_a_registered_method_keeps_the_contract(check: Check) -> None:
    outcome = check.run()
    outcome.require()
    if outcome.status == "exempt":
        pytest.skip(f"exempt: {outcome.detail}")


@over_names
def test_a_built_in_method_has_a_reference_that_can_be_opened(name: str) -> None:
    assert METHODS.get(name).reference.url.startswith("https://")


@over_names
def test_a_setting_that_is_not_finite_is_refused_by_its_name(name: str) -> None:
    method = METHODS.get(name)
    numbers = [f for f, info in method.Config.model_fields.items() if info.annotation is float]
    for field in numbers:
        with pytest.raises(ConfigError, match=f"{name}.{field} ="):
            method_config(method, {field: math.inf})
