"""The conformance suite on healthy methods of each kind: all checks pass."""

from __future__ import annotations

import pytest
from toy_methods import HEALTHY, Exit

from bench.method import Method
from bench.testing import check_method


@pytest.fixture(autouse=True)
def one_backbone() -> None:
    """Healthy methods are tried on all backbones."""


@pytest.mark.parametrize("method", HEALTHY, ids=lambda method: method.name)
def test_a_healthy_method_of_each_kind_passes_all_its_checks(method: type[Method]) -> None:
    outcomes = check_method(method)
    assert [outcome for outcome in outcomes if outcome.status == "failed"] == []
    exempt = {outcome.check for outcome in outcomes if outcome.status == "exempt"}
    own_net = {"all_off"} if issubclass(method, Exit) else set()
    assert exempt == {*method.tags.exempt, *own_net}
