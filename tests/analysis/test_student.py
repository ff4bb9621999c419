"""Student's t with any number of degrees of freedom, against a library."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from bench.analysis.student import critical_value, two_sided_p


@pytest.mark.parametrize("degrees", [1, 2, 7, 200, 1.3, 2.5, 4.71, 133.3, 1e6])
@pytest.mark.parametrize("t", [0.1, 1.96, 4.0, 12.0])
def test_whole_and_fractional_degrees_agree_with_a_library(t: float, degrees: float) -> None:
    assert two_sided_p(t, degrees) == pytest.approx(2 * stats.t.sf(t, degrees), rel=1e-6)
    assert two_sided_p(-t, degrees) == two_sided_p(t, degrees)


def test_infinitely_many_degrees_are_the_normal_distribution() -> None:
    assert critical_value(0.95, math.inf) == pytest.approx(1.959964, rel=1e-6)
    assert critical_value(0.95, 2) == pytest.approx(4.30265, rel=1e-5)
    assert two_sided_p(math.inf, 3.0) == 0
