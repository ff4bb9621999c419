"""What must hold for every registered method: the conformance suite over the registry."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch

from bench.errors import ConfigError, NotApplicable
from bench.measure.modes import evaluating
from bench.method import METHODS
from bench.plugins import method_config
from bench.runtimes.eager import Eager
from bench.testing import Check, checks_of
from bench.testing.synthetic import images
from bench.testing.workbench import Workbench

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
def test_the_eager_runtime_computes_the_same_also_in_float64(name: str) -> None:
    method, x = METHODS.get(name)(), images(24, seed=3)
    if "execution" in method.tags.exempt:
        pytest.skip(f"exempt: {method.tags.exempt['execution']}")
    try:
        subjects = list(Workbench(method, None).train())
    except NotApplicable as reason:
        pytest.skip(f"does not apply: {reason}")
    for subject in subjects:
        for point in subject.points[:2]:
            for net, given in ((point.net, x), (deepcopy(point.net).double(), x.double())):
                with evaluating(net):
                    expected = net(given)
                logits, executed = Eager().prepare(net, given[:2])(given)
                assert torch.equal(executed, expected.executed)
                allowed = 1e-5 * max(10.0, float(expected.logits.abs().max()))
                torch.testing.assert_close(logits, expected.logits, atol=allowed, rtol=0)


@over_names
def test_a_built_in_method_has_a_reference_that_can_be_opened(name: str) -> None:
    assert METHODS.get(name).reference.url.startswith("https://")


@over_names
def test_a_setting_that_is_not_finite_is_refused_by_its_name(name: str) -> None:
    method = METHODS.get(name)
    numbers = [f for f, info in method.Config.model_fields.items() if info.annotation is float]
    for field in numbers:
        with pytest.raises(ConfigError, match=rf"{name}\.{field}: inf cannot be used"):
            method_config(method, {field: math.inf})
