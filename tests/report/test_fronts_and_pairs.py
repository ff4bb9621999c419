"""How sure the front is, and networks of about the same cost in pairs, from synthetic records."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_results import ResultsFolder

import bench
from bench.report.verdicts.fronts import front_points, front_table, pairs_of, pairs_table


def filled(results: ResultsFolder) -> None:
    """A dense curve, a method well above it, one just as good at its cost, one far below it."""
    results.run("resnet", (0.92, 1.0), speedups=(1.0,))
    results.run("resnet", (0.90, 1.0), backbone="resnet20")
    results.run("sgad", (0.95, 0.80), speedups=(1.2,))
    results.run("cdl", (0.95, 0.80), speedups=(1.1,))
    results.run("act", (0.80, 0.78))


def test_a_point_that_nothing_beats_is_on_the_front_for_sure_and_a_tie_is_not(
    results: ResultsFolder,
) -> None:
    filled(results)
    found = front_points(results.study())
    assert [*dict.fromkeys(one.axis.name for one in found)] == ["macs", "time at batch 1"]
    macs = {(one.label, one.backbone): one for one in found if one.axis.name == "macs"}
    assert macs["resnet", "resnet20"].probability == 1.0
    assert macs["resnet", "resnet20"].cost == pytest.approx(40_551_040 / 68_862_592)
    assert macs["act", "resnet32"].probability < 0.01
    assert macs["resnet", "resnet32"].probability < 0.01
    tied = [macs[name, "resnet32"].probability for name in ("sgad", "cdl")]
    assert all(0.1 < probability < 1 for probability in tied) and sum(tied) > 0.95
    time = {one.label: one for one in found if one.axis.name != "macs"}
    assert set(time) == {"resnet", "sgad", "cdl"}, "without a time a network is on no front in time"
    assert time["sgad"].cost == pytest.approx(1 / 1.2) and time["sgad"].probability > 0.9


def test_recipes_do_not_meet_on_a_front_and_one_network_makes_none(results: ResultsFolder) -> None:
    results.run("resnet", (0.92, 1.0))
    assert front_points(results.study()) == []
    results.run("resnet", (0.93, 1.0), recipe="paper")
    assert front_points(results.study()) == []


def test_only_networks_of_about_the_same_cost_are_paired_the_more_expensive_first(
    results: ResultsFolder,
) -> None:
    filled(results)
    found = pairs_of(results.study())
    names = {(pair.a.name, pair.b.name) for pair in found}
    assert {frozenset(pair) for pair in names} == {
        *map(frozenset, (("cdl", "sgad"), ("cdl", "act"), ("sgad", "act")))
    }
    assert ("sgad", "act") in names and ("cdl", "act") in names
    by_name = {frozenset((pair.a.name, pair.b.name)): pair for pair in found}
    clear, level = by_name[frozenset(("sgad", "act"))], by_name[frozenset(("sgad", "cdl"))]
    assert clear.gain.value == pytest.approx(0.15) and clear.p_holm < 1e-6
    assert level.p_holm > 0.05 and level.gain.bounds.low < 0 < level.gain.bounds.high
    assert clear.p_holm >= clear.gain.p_value


def test_pairs_of_several_seeds_cover_training(results: ResultsFolder) -> None:
    for seed in range(3):
        results.run("sgad", (0.95, 0.8), seed=seed)
        results.run("act", (0.93, 0.8), seed=seed)
    (pair,) = pairs_of(results.study())
    assert pair.gain.covers_training
    (line,) = pairs_table([pair]).lines
    assert "3 and 3" in line


def test_points_of_one_run_are_not_paired(results: ResultsFolder) -> None:
    results.run("cdl", (0.90, 0.70), (0.92, 0.72))
    assert pairs_of(results.study()) == []


def test_tables_and_frames_say_the_same(results: ResultsFolder, tmp_path: Path) -> None:
    filled(results)
    points = front_points(results.study())
    table = front_table(points)
    assert "dense resnet32" in table.caption
    assert not any("act" in line for line in table.lines), "below 1 % is left out"
    assert len(bench.front_certainty(tmp_path)) == len(points)
    pairs = bench.pairs(bench.load_results(tmp_path))
    assert len(pairs) == 3 and not pairs.covers_training.any()
