"""Who stops trials early: each method by itself, and what is on record counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bench.sweep.ledger import RecordedTrial
from bench.sweep.scheduling import stopping
from bench.sweep.worker import METHOD, PERCENT, SCORE

pytest.importorskip("ray.tune")


class Trial:
    def __init__(self, name: str, method: str = "sgad") -> None:
        self.trial_id, self.config = name, {METHOD: method}


class Controller:
    def get_live_trials(self) -> list[Any]:
        return []


def went(name: str, score: float, *, method: str = "sgad", until: int = 100) -> RecordedTrial:
    return RecordedTrial(name, method, [(float(at), score) for at in range(10, until + 1, 10)])


def judged(
    name: str, past: Sequence[RecordedTrial], score: float, *, method: str = "sgad"
) -> list[str]:
    """Return what the rule says of a trial after each tenth of its training, until it stops it."""
    waiting = [list(past)]
    rules = stopping(name, lambda: waiting.pop() if waiting else [])
    trial, controller = Trial("new", method), Controller()
    rules.on_trial_add(controller, trial)
    said: list[str] = []
    for at in range(10, 100, 10):
        said.append(rules.on_trial_result(controller, trial, {PERCENT: at, SCORE: score}))
        if said[-1] == "STOP":
            break
    return said


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_trial_is_judged_beside_those_on_record(name: str) -> None:
    past = [went("a", 0.7), went("b", 0.8), went("c", 0.9)]
    assert "STOP" not in judged(name, past, 0.95)
    assert "STOP" in judged(name, past, 0.5)
    assert "STOP" not in judged(name, [], 0.5)


@pytest.mark.parametrize("name", ["asha", "median"])
def test_trials_that_were_stopped_count_as_far_as_they_came(name: str) -> None:
    past = [went(letter, 0.9, until=50) for letter in "abc"]
    assert "STOP" in judged(name, past, 0.5)


@pytest.mark.parametrize("name", ["asha", "median"])
def test_what_is_on_record_of_another_method_stops_nobody(name: str) -> None:
    past = [went(letter, 0.9, method="resnet") for letter in "abc"]
    assert "STOP" not in judged(name, past, 0.5)


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_trial_on_record_that_the_rule_would_have_stopped_is_no_trouble(name: str) -> None:
    past = [*(went(letter, 0.9) for letter in "abc"), went("d", 0.1)]
    assert "STOP" in judged(name, past, 0.5)


def test_a_record_without_epochs_shows_nothing() -> None:
    assert "STOP" not in judged("asha", [RecordedTrial("a", "sgad", [])], 0.5)


def test_fifo_stops_nobody_and_asks_for_nothing() -> None:
    assert stopping("fifo", lambda: pytest.fail("not asked for")) is None
