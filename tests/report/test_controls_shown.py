"""Controls in tables and figures: who judges whom, and what is shown only once."""

from synthetic_records import make_point, make_record, start_of

from bench.records.record import Dynamics
from bench.report.data.rows import rows
from bench.report.data.study import group_seeds, without_restated
from bench.report.pareto.chart import pareto_data


def test_a_control_that_restates_its_source_is_left_out() -> None:
    dynamics = Dynamics(shuffled_accuracy=0.88, shuffled_loss=0.04)
    point = make_point(accuracy=0.92, nflops=0.5, dynamics=dynamics)
    source = make_record("sgad", points=(point,))
    controls = [
        make_record(
            name,
            points=(make_point(accuracy=accuracy, nflops=nflops),),
            role="control",
            initial=start_of(source),
        )
        for name, accuracy, nflops in (("shuffled", 0.88, 0.5), ("projected", 0.91, 0.48))
    ]
    found = rows([source, *controls])
    kept = {group.first.method for group in without_restated(group_seeds(found))}
    assert kept == {"sgad", "projected"}
    assert [row.source for row in found] == [None, source.run, source.run]


def test_a_start_of_training_is_not_the_source_of_a_control() -> None:
    dense = make_record("resnet", points=(make_point(nflops=1.0),))
    (row,) = rows([make_record("sgad", initial=start_of(dense), role="dynamic")])
    assert row.source is None


def test_a_control_is_not_a_dense_network_whatever_it_runs() -> None:
    whole = (make_point(nflops=1.0, macs=68_862_592.0),)
    records = [make_record("resnet", points=whole)]
    records.append(make_record("stochastic", points=whole, role="control"))
    assert [row.dense for row in rows(records)] == [True, False]


def test_a_control_far_below_is_named_below_the_view() -> None:
    own = make_record("sgad", points=(make_point(accuracy=0.928, nflops=0.5),))
    point = make_point(accuracy=0.6, nflops=0.5)
    data = pareto_data(
        rows([own, make_record("coins", points=(point,), role="control")]), x="nflops"
    )
    assert (data.lowest or 0) > 60
    assert "below the view: coins" in list(data.notes())


def test_operating_points_of_one_training_are_one_curve() -> None:
    points = tuple(make_point(name, nflops=n) for name, n in (("b", 0.7), ("a", 0.4), ("c", 0.9)))
    data = pareto_data(rows([make_record("exits", points=points), make_record()]), x="nflops")
    (curve,) = data.curves
    assert [placed.group.first.point for placed in curve] == ["a", "b", "c"]
