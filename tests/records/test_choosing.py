"""Which finished runs a name means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import RecordError
from bench.records.record import RunRecord
from bench.records.store import RunStore, finished_run, finished_runs

MakeRecord = Callable[..., RunRecord]


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "results")


def test_the_beginning_of_several_names_means_all_finished_runs(
    store: RunStore, make_record: MakeRecord
) -> None:
    seeds = [make_record(seed=seed) for seed in (0, 1)]
    for record in (*seeds, make_record(seed=2, status="failed", reason="no luck")):
        store.save(record)
    assert finished_runs(store, "sgad-cifar10") == seeds


def test_the_name_of_a_method_means_no_longer_name(
    store: RunStore, make_record: MakeRecord
) -> None:
    record = make_record("sgad")
    for one in (record, make_record("sgad_beta")):
        store.save(one)
    assert finished_runs(store, "sgad") == [record] == [store.get("sgad")]
    assert len(finished_runs(store, "sga")) == 2


def test_a_failed_run_is_in_nobodys_way_where_one_finished_run_is_needed(
    store: RunStore, make_record: MakeRecord
) -> None:
    record = make_record(seed=0)
    for one in (record, make_record(seed=1, status="failed", reason="no luck")):
        store.save(one)
    assert finished_run(store, "sgad") == record
    with pytest.raises(RecordError, match=r"s1-\w+ is not finished. It failed: no luck"):
        finished_run(store, "sgad-cifar10-resnet32-s1")


def test_several_candidates_are_differences_by_what_differs(
    store: RunStore, make_record: MakeRecord
) -> None:
    for d_max in (0.5, 0.8):
        store.save(make_record(config={"d_max": d_max, "gamma": 1}))
    with pytest.raises(RecordError, match="names 2 finished runs") as caught:
        finished_run(store, "sgad")
    hint = caught.value.hint or ""
    assert "(d_max=0.5)" in hint and "(d_max=0.8)" in hint
    assert "gamma" not in hint and "the hash at its end" in hint
