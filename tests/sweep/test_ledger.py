"""The state of a sweep: what is run, what is found again, what a search is told, what is chosen."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from sweep_parts import Remembering, epoch_row, gammas, small_ledger

from bench.config import RunSpec
from bench.records.record import Environment, RunRecord
from bench.records.store import RunStore
from bench.sweep.trials import Proposal, Search


def _finished(spec: RunSpec) -> RunRecord:
    return RunRecord(
        run=spec.run,
        spec=spec,
        status="finished",
        environment=Environment(values={}),
        created="2026-11-01T10:00:00+00:00",
    )


def test_a_try_is_one_trial_for_each_seed_and_each_has_the_spec_of_an_ordinary_run(
    tmp_path: Path,
) -> None:
    ledger = small_ledger(tmp_path, [gammas(0.1, 0.5)], seeds=(0, 1))
    trials = list(ledger.trials())
    assert ledger.total == len(trials) == 4
    assert [p.seed for p in trials] == [0, 1, 0, 1]
    specs = [p.trial.spec for p in trials if p.trial is not None]
    assert [spec.config["gamma"] for spec in specs] == [0.1, 0.1, 0.5, 0.5]
    assert {spec.held_out for spec in specs} == {100}


def test_a_recorded_trial_is_found_again_and_not_run(tmp_path: Path) -> None:
    first = small_ledger(tmp_path, [gammas(0.1)])
    progress = next(first.trials(), None)
    assert progress is not None and progress.trial is not None
    RunStore(tmp_path / "results").save(_finished(progress.trial.spec))
    again = small_ledger(tmp_path, [gammas(0.1, 0.5)])
    waiting = next(again.trials(), None)
    assert waiting is not None
    assert waiting.tried.settings == {"sgad.gamma": 0.5}
    assert [p.state for p in again.progress] == ["recorded", "running"]


def test_methods_take_turns(tmp_path: Path) -> None:
    other = Search("resnet", [{"train.lr": 0.1}, {"train.lr": 0.2}])
    ledger = small_ledger(tmp_path, [gammas(0.1, 0.5), other])
    methods = [p.tried.method for p in ledger.trials()]
    assert methods == ["sgad", "resnet", "sgad", "resnet"]


def test_settings_that_are_refused_fail_with_the_reason_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    listener = Remembering()
    ledger = small_ledger(tmp_path, [gammas(0.1, -5, 0.5)], listener=listener)
    ran = list(ledger.trials())
    assert len(ran) == 2
    [refused] = [p for p in ledger.progress if p.state == "failed"]
    assert "greater than or equal to 0" in refused.reason
    assert ("", "failed") in listener.states


def test_the_same_run_is_not_done_twice(tmp_path: Path) -> None:
    ledger = small_ledger(tmp_path, [Search("sgad", [{}, {}])])
    assert len(list(ledger.trials())) == 1
    assert ledger.progress[1].reason == "the same run as another trial"


class _Remembering(Search):
    def __init__(self) -> None:
        super().__init__("sgad", [{"sgad.gamma": 0.2}])
        self.told: list[Sequence[float] | None] = []

    def tell(self, tried: Proposal, values: Sequence[float] | None) -> None:
        self.told.append(values)


def test_a_search_is_told_the_mean_over_seeds_when_all_have_ended(tmp_path: Path) -> None:
    search = _Remembering()
    ledger = small_ledger(tmp_path, [search], seeds=(0, 1, 2))
    trials = list(ledger.trials())
    for progress, accuracy in zip(trials[:2], (0.7, 0.9), strict=True):
        progress.points = [(0.5, accuracy)]
        ledger.settle(progress, "finished")
    assert search.told == []
    ledger.settle(trials[2], "failed", "the machine burnt down")
    assert search.told == [pytest.approx((0.8,))]


def test_epochs_give_a_trial_its_score_so_far(tmp_path: Path) -> None:
    ledger = small_ledger(tmp_path, [gammas(0.1)])
    progress = next(ledger.trials(), None)
    assert progress is not None
    ledger.begin(progress)
    ledger.hear(progress, "epoch", epoch_row(1, 0.6, 0.7).model_dump())
    assert progress.score == 0.6
    ledger.hear(progress, "epoch", epoch_row(2, 0.9, 1.1).model_dump())
    assert progress.score == pytest.approx(0.8 - 1.1)
    assert len(progress.history) == 2


def test_a_stopped_trial_is_recorded_with_its_history_and_counts_as_done_where_trials_are_stopped(
    tmp_path: Path,
) -> None:
    ledger = small_ledger(tmp_path, [gammas(0.1)])
    progress = next(ledger.trials(), None)
    assert progress is not None and progress.trial is not None
    ledger.begin(progress)
    ledger.hear(progress, "epoch", epoch_row(1, 0.6, 0.7).model_dump())
    ledger.settle(progress, "stopped", "stopped early at epoch 1 of 3")
    [record] = ledger.records()
    assert (record.status, len(record.history), record.points) == ("stopped", 1, ())
    assert next(small_ledger(tmp_path, [gammas(0.1)]).trials(), None) is not None
    assert next(small_ledger(tmp_path, [gammas(0.1)], stopped_count=True).trials(), None) is None


def test_a_trial_that_died_has_a_record_and_never_replaces_a_finished_one(tmp_path: Path) -> None:
    ledger = small_ledger(tmp_path, [gammas(0.1, 0.5)])
    died, done = ledger.trials()
    assert died.trial is not None and done.trial is not None
    store = RunStore(tmp_path / "results")
    store.save(_finished(done.trial.spec))
    for progress in (died, done):
        ledger.begin(progress)
        ledger.settle(progress, "failed", "its worker died\n3 times")
    record = store.find(died.trial.spec, status="failed")
    assert record is not None
    assert record.reason == "its worker died 3 times"
    assert store.find(done.trial.spec) is not None


def test_the_best_settings_are_those_with_the_highest_mean_within_the_budget(
    tmp_path: Path,
) -> None:
    ledger = small_ledger(tmp_path, [gammas(1, 2, 3, 4)], seeds=(0, 1))
    reached = {1: (0.7, 0.9), 2: (0.85, 0.87), 3: (0.99, 0.99), 4: (0.95, 0.95)}
    for progress in ledger.trials():
        gamma = progress.tried.settings["sgad.gamma"]
        cost = 0.9 if gamma == 3 else 0.5
        progress.points = [(cost, reached[gamma][progress.seed])]
        failed = gamma == 4 and progress.seed == 1
        ledger.settle(progress, "failed" if failed else "finished", "x" if failed else "")
    best = ledger.best("sgad")
    assert {p.tried.settings["sgad.gamma"] for p in best} == {2}
    assert [p.seed for p in best] == [0, 1]
    assert ledger.best("blockdrop") == []
