"""Grids, random draws and Optuna: what is proposed, how often, and what is learnt from scores."""

import pytest

from bench.analysis.pareto import hypervolume
from bench.errors import ConfigError
from bench.spaces import Choice, Space, Uniform
from bench.sweep.trials import Proposal, Search, proposals

LISTS: dict[str, Space] = {"sgad.gamma": Choice((0.1, 1)), "sgad.beta": Choice((1, 2, 3))}
RANGE: dict[str, Space] = {"sgad.d_max": Uniform(0.0, 1.0)}


def _all(search: Search) -> list[Proposal]:
    return list(iter(search.ask, None))


def test_a_grid_is_every_combination_once() -> None:
    tries = _all(proposals("", "sgad", LISTS, samples=None))
    assert len({tuple(t.settings.values()) for t in tries}) == len(tries) == 6
    assert tries[0].settings == {"sgad.gamma": 0.1, "sgad.beta": 1}


def test_a_grid_of_a_range_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError) as caught:
        proposals("grid", "sgad", RANGE, samples=None)
    assert "--search random" in str(caught.value)


def test_more_samples_begin_with_the_same_draws() -> None:
    few = _all(proposals("random", "sgad", RANGE, samples=3))
    many = _all(proposals("random", "sgad", RANGE, samples=7))
    assert [t.settings for t in many[:3]] == [t.settings for t in few]
    assert len({t.settings["sgad.d_max"] for t in many}) == 7


def test_random_draws_from_lists_do_not_repeat_and_end_when_nothing_is_left() -> None:
    search = proposals("random", "sgad", LISTS, samples=50)
    assert search.total == len(_all(search)) == 6


def test_methods_are_drawn_independently() -> None:
    first, second = (_all(proposals("random", m, RANGE, samples=1))[0] for m in ("a", "b"))
    assert first.settings != second.settings


def test_a_method_without_ranges_is_tried_once() -> None:
    for search in ("grid", "random", "optuna", "pareto"):
        samples = None if search == "grid" else 5
        assert len(_all(proposals(search, "resnet", {}, samples=samples))) == 1


def test_optuna_learns_where_scores_are_high() -> None:
    search = proposals("optuna", "sgad", RANGE, samples=40)
    asked: list[float] = []
    for tried in iter(search.ask, None):
        value = tried.settings["sgad.d_max"]
        asked.append(value)
        search.tell(tried, [-abs(value - 0.8)])
    late = asked[25:]
    assert sum(abs(value - 0.8) < 0.2 for value in late) > 0.7 * len(late)


def test_optuna_survives_trials_without_a_score() -> None:
    search = proposals("optuna", "sgad", RANGE, samples=6)
    for number, tried in enumerate(iter(search.ask, None)):
        search.tell(tried, None if number % 2 else [float("nan")])


def test_an_interrupted_optuna_search_proposes_first_what_it_had_proposed() -> None:
    known = [{"sgad.d_max": 0.123}, {"sgad.d_max": 0.456}]
    tries = _all(proposals("optuna", "sgad", RANGE, samples=4, known=known))
    assert [t.settings for t in tries[:2]] == known
    assert len(tries) == 4


def test_a_search_for_both_begins_like_a_random_one_and_encloses_a_larger_area() -> None:
    spaces: dict[str, Space] = {f"sgad.{key}": Uniform(0.0, 1.0) for key in "abcd"}

    def area(name: str) -> tuple[list[Proposal], float]:
        search, points = proposals(name, "sgad", spaces, samples=40), []
        tries = []
        for tried in iter(search.ask, None):
            tries.append(tried)
            cost, *lost = tried.settings.values()  # what is lost is best at 0, at any cost
            point = cost, (0.2 + 0.8 * cost) / (1 + sum(lost))
            points.append(point)
            search.tell(tried, (point[1], -point[0]))
        return tries, hypervolume(points, worst_cost=1.1, worst_accuracy=0.0)

    (drawn, by_chance), (proposed, learnt) = area("random"), area("pareto")
    assert [t.settings for t in proposed[:10]] == [t.settings for t in drawn[:10]]
    assert learnt > 1.1 * by_chance
