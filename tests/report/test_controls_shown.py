"""Controls in tables and figures: who judges whom, and what is shown only once."""

from collections.abc import Callable

from bench.config import InitialWeights
from bench.records.record import Dynamics, PointRecord, RunRecord
from bench.report.data.groups import group_seeds, without_restated
from bench.report.data.row import Row
from bench.report.data.rows import rows
from bench.report.pareto.data import pareto_data

MakeRecord = Callable[..., RunRecord]
MakePoint = Callable[..., PointRecord]


def _control(record: RunRecord, source: RunRecord) -> RunRecord:
    start = InitialWeights(kind="run", name=source.run, identity=source.spec.key)
    spec = record.spec.model_copy(update={"initial": start})
    return record.model_copy(update={"role": "control", "spec": spec, "run": spec.run})


def _shuffled_pair(make_record: MakeRecord, make_point: MakePoint) -> list[Row]:
    dynamics = Dynamics(shuffled_accuracy=0.88, shuffled_loss=0.04)
    point = make_point(accuracy=0.92, nflops=0.5)
    source = make_record("sgad", points=(point.model_copy(update={"dynamics": dynamics}),))
    shuffled = make_record("shuffled", points=(make_point(accuracy=0.88, nflops=0.5),))
    projected = make_record("projected", points=(make_point(accuracy=0.91, nflops=0.48),))
    return rows([source, _control(shuffled, source), _control(projected, source)])


def test_a_control_that_restates_its_source_is_left_out(
    make_record: MakeRecord, make_point: MakePoint
) -> None:
    found = _shuffled_pair(make_record, make_point)
    kept = {group.first.method for group in without_restated(group_seeds(found))}
    assert kept == {"sgad", "projected"}
    assert [row.source for row in found] == [None, found[0].run, found[0].run]


def test_a_start_of_training_is_not_the_source_of_a_control(
    make_record: MakeRecord, make_point: MakePoint
) -> None:
    dense = make_record("resnet", points=(make_point(nflops=1.0),))
    (row,) = rows([_control(make_record("sgad"), dense).model_copy(update={"role": "dynamic"})])
    assert row.source is None


def test_a_control_is_not_a_dense_network_whatever_it_runs(
    make_record: MakeRecord, make_point: MakePoint
) -> None:
    whole = make_point(nflops=1.0).model_copy(update={"gated_blocks": (), "macs": 68_862_592.0})
    dense = make_record("resnet", points=(whole,))
    control = make_record("stochastic", points=(whole,)).model_copy(update={"role": "control"})
    assert [row.dense for row in rows([dense, control])] == [True, False]


def test_a_control_far_below_is_counted_and_not_drawn(
    make_record: MakeRecord, make_point: MakePoint
) -> None:
    own = make_record("sgad", points=(make_point(accuracy=0.928, nflops=0.5),))
    coins = make_record("coins", points=(make_point(accuracy=0.6, nflops=0.5),))
    data = pareto_data(rows([own, coins.model_copy(update={"role": "control"})]), x="nflops")
    assert [placed.group.first.method for placed in data.placed] == ["sgad"]
    assert "left out: 1 control far below" in list(data.notes())


def test_operating_points_of_one_training_are_one_curve(
    make_record: MakeRecord, make_point: MakePoint
) -> None:
    points = [make_point(name, nflops=cost) for name, cost in (("b", 0.7), ("a", 0.4), ("c", 0.9))]
    data = pareto_data(
        rows([make_record("exits", points=tuple(points)), make_record()]), x="nflops"
    )
    (curve,) = data.curves
    assert [placed.group.first.point for placed in curve] == ["a", "b", "c"]
