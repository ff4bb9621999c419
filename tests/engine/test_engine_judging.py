"""Cost against difficulty: which dense run judges, and what the number is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.engine.judging import judge
from bench.records.arrays import save_arrays
from bench.records.record import Dynamics, PointRecord, RunRecord
from bench.records.store import RunStore

COSTS = np.array([1.0, 2.0, 3.0, 4.0])
MakeRecord = Callable[..., RunRecord]
MakePoint = Callable[..., PointRecord]


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path)


def _keep(record: RunRecord, store: RunStore, **arrays: np.ndarray) -> RunRecord:
    store.save(record)
    save_arrays(store.folder_of(record), record.points[0].arrays_file, arrays)
    return record


def _dense(make_record: MakeRecord, make_point: MakePoint, **given: object) -> RunRecord:
    return make_record("resnet", points=(make_point(nflops=1.0),), role="dense", **given)


def _dynamic(make_record: MakeRecord, make_point: MakePoint) -> RunRecord:
    point = make_point().model_copy(update={"dynamics": Dynamics(shuffled_accuracy=0.5)})
    return make_record("sgad", points=(point,))


def _found(records: list[RunRecord]) -> Dynamics:
    dynamics = records[0].points[0].dynamics
    assert dynamics is not None
    return dynamics


def test_cost_is_correlated_with_the_loss_of_the_dense_run(
    make_record: MakeRecord, make_point: MakePoint, store: RunStore
) -> None:
    dense = _keep(_dense(make_record, make_point), store, loss_n=np.array([0.1, 0.9, 0.2, 3.0]))
    record = _keep(_dynamic(make_record, make_point), store, macs_n=COSTS)
    found = _found(judge([record], store))
    assert found.difficulty_correlation == pytest.approx(0.8)
    assert found.difficulty_of == dense.run
    assert found.shuffled_accuracy == 0.5
    assert _found([store.get(record.run)]) == found


def test_the_dense_run_of_the_same_recipe_judges_before_any_other(
    make_record: MakeRecord, make_point: MakePoint, store: RunStore
) -> None:
    same = _dense(make_record, make_point, recipe="quick")
    other = _dense(make_record, make_point, recipe="finetune")
    _keep(other, store, loss_n=COSTS[::-1].copy())
    _keep(same, store, loss_n=COSTS)
    record = _keep(_dynamic(make_record, make_point), store, macs_n=COSTS)
    found = _found(judge([record], store))
    assert (found.difficulty_of, found.difficulty_correlation) == (same.run, pytest.approx(1.0))


def test_without_a_dense_run_there_is_a_reason_and_it_can_be_found_later(
    make_record: MakeRecord, make_point: MakePoint, store: RunStore
) -> None:
    record = _keep(_dynamic(make_record, make_point), store, macs_n=COSTS)
    (without,) = judge([record], store)
    assert _found([without]).difficulty_correlation is None
    assert "no dense run" in _found([without]).difficulty_reason
    _keep(_dense(make_record, make_point), store, loss_n=COSTS)
    assert _found(judge([without], store)).difficulty_correlation == pytest.approx(1.0)


def test_a_constant_cost_has_no_correlation(
    make_record: MakeRecord, make_point: MakePoint, store: RunStore
) -> None:
    _keep(_dense(make_record, make_point), store, loss_n=COSTS)
    record = _keep(_dynamic(make_record, make_point), store, macs_n=np.ones(4))
    assert _found(judge([record], store)).difficulty_reason == "every image costs the same"


def test_static_networks_are_left_alone(
    make_record: MakeRecord, make_point: MakePoint, store: RunStore
) -> None:
    dense = _dense(make_record, make_point)
    assert judge([dense], store) == [dense]
