"""The front of a sweep: chosen by held-out images, worth what test images say, options to copy."""

from __future__ import annotations

import pytest
from synthetic_results import ResultsFolder

from bench.records.record import RunRecord
from bench.records.sweep import SweepRecord, TrialRow
from bench.report.pareto.sweep import front_chart, front_lines, sweep_front

CORNER = (1.1, 0.1)


def _trial(record: RunRecord, gamma: float, point: tuple[float, float]) -> TrialRow:
    return TrialRow(
        method="sgad",
        settings={"sgad.gamma": gamma},
        seed=record.spec.seed,
        run=record.run,
        status="finished",
        points=(point,),
    )


def _sweep(*trials: TrialRow) -> SweepRecord:
    return SweepRecord(
        name="s",
        options={"search": "pareto"},
        criterion="",
        held_out=100,
        corner=CORNER,
        created="2026-11-01T10:00:00+00:00",
        trials=trials,
    )


def _filled(results: ResultsFolder) -> SweepRecord:
    """Two on the front by held-out images, which flatter the cheap one, and one behind them."""
    cheap = results.run("sgad", (0.80, 0.50), seed=0, config={"gamma": 1.0})
    good = results.run("sgad", (0.90, 0.80), seed=0, config={"gamma": 0.1})
    behind = results.run("sgad", (0.95, 0.90), seed=0, config={"gamma": 0.5})
    return _sweep(
        _trial(cheap, 1.0, (0.5, 0.99)),
        _trial(good, 0.1, (0.4, 0.89)),
        _trial(behind, 0.5, (0.9, 0.98)),
    )


def test_the_front_is_chosen_by_held_out_images_and_measured_on_test_images(
    results: ResultsFolder,
) -> None:
    sweep = _filled(results)
    found = sweep_front(sweep, results.study())
    assert found is not None and found.worth is not None
    assert [one.settings["sgad.gamma"] for one in found.points] == [0.1, 1.0]
    assert found.hypervolume == pytest.approx(0.7 * 0.79 + 0.6 * 0.10)
    test = (1.1 - 0.5) * (0.8 - 0.1) + (1.1 - 0.8) * (0.9 - 0.8)
    assert found.worth.hypervolume == pytest.approx(test, abs=0.01)
    assert found.worth.bounds.low < found.worth.hypervolume < found.worth.bounds.high
    assert "--methods sgad --set sgad.gamma=0.1" in "\n".join(front_lines(found))
    assert front_chart(found).title.startswith("Front of 2 points among 3 tried settings")


def test_without_records_a_front_has_no_interval_and_says_why(results: ResultsFolder) -> None:
    sweep = _filled(results)
    found = sweep_front(sweep, results.study([]))
    assert found is not None and found.worth is None
    assert "not available" in "\n".join(front_lines(found))
    assert sweep_front(sweep.model_copy(update={"trials": ()}), results.study()) is None
