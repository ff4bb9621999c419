"""Who stops trials early: each method by itself."""

from __future__ import annotations

from typing import Any

import pytest

from bench.sweep.scheduling import stopping
from bench.sweep.worker import METHOD, PERCENT, SCORE


class Trial:
    def __init__(self, name: str, method: str) -> None:
        self.trial_id, self.config = name, {METHOD: method}


class Controller:
    def get_live_trials(self) -> list[Any]:
        return []


def went(rules: Any, name: str, score: float, *, method: str = "sgad") -> list[str]:
    """Return what the rules say of a trial after each tenth of its training, until the end."""
    trial, controller = Trial(name, method), Controller()
    rules.on_trial_add(controller, trial)
    said: list[str] = []
    for at in range(10, 100, 10):
        result = {PERCENT: at, SCORE: score}
        said.append(rules.on_trial_result(controller, trial, result))
        if said[-1] == "STOP":
            break
    rules.on_trial_complete(controller, trial, result)
    return said


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_trial_is_judged_among_those_of_its_method(name: str) -> None:
    rules = stopping(name)
    for letter in "abc":
        went(rules, letter, 0.9)
    assert "STOP" in went(rules, "worse", 0.5)
    assert "STOP" not in went(rules, "better", 0.95)
    assert "STOP" not in went(rules, "other", 0.5, method="resnet")


def test_fifo_stops_nobody() -> None:
    assert stopping("fifo") is None
