"""Rows: keys that stay, the newest latency, honest notes on budgets, and filters."""

from __future__ import annotations

import json

import pytest
from synthetic_records import make_cell, make_point, make_record

from bench.errors import ConfigError, UnknownNameError
from bench.report.data.budgets import budgets_differ
from bench.report.data.row import KEYS, Row, filter_rows, flat
from bench.report.data.rows import rows

STABLE = [
    *("run", "method", "variant", "dataset", "backbone", "recipe", "seed", "accuracy", "nflops"),
    *("nflops_backbone", "macs", "params", "latency_ms_b1", "speedup_b1", "speedup_b256"),
    *("train_epochs", "status", "reason", "runtime"),
]


def test_the_stable_keys_come_first_and_in_order(ours: list[Row]) -> None:
    assert list(KEYS) == STABLE
    for row in map(flat, ours):
        assert list(row)[: len(STABLE)] == STABLE
        assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_every_row_has_the_same_keys(ours: list[Row]) -> None:
    assert len({tuple(flat(row)) for row in ours}) == 1


def test_each_operating_point_is_a_row_with_its_name_in_the_variant() -> None:
    points = (make_point("t=0.3", nflops=0.4), make_point("t=0.7", nflops=0.7))
    found = rows([make_record("skipnet", variant="rnn", points=points)])
    assert [(row.variant, row.nflops) for row in found] == [
        ("rnn, t=0.3", 0.4),
        ("rnn, t=0.7", 0.7),
    ]


def test_a_failed_run_is_one_row_without_numbers() -> None:
    (row,) = map(flat, rows([make_record(status="failed", reason="the loss is not a number")]))
    assert (row["status"], row["reason"]) == ("failed", "the loss is not a number")
    measured = ("accuracy", "nflops", "macs", "params", "latency_ms_b1", "train_epochs")
    assert {row[key] for key in measured} == {None}


def test_an_unmeasured_latency_is_none() -> None:
    row = flat(rows([make_record()])[0])
    assert (row["latency_ms_b1"], row["speedup_b1"], row["speedup_b256"]) == (None, None, None)


def test_the_last_measurement_counts_even_if_the_clock_was_set_back() -> None:
    cells = (
        make_cell(latency_ms=4.0, speedup=1.1, measured_at="2026-11-02T00:00:00+00:00"),
        make_cell(latency_ms=2.0, speedup=1.9, measured_at="2026-11-01T00:00:00+00:00"),
        make_cell(latency_ms=1.0, speedup=1.5, batch_size=256),
        make_cell(latency_ms=1.0, speedup=3.0, batch_size=32),
    )
    row = flat(rows([make_record(points=(make_point(latency=cells),))])[0])
    assert (row["latency_ms_b1"], row["speedup_b1"]) == (2.0, 1.9)
    assert (row["verdict_b1"], row["speedup_b256"]) == ("faster", 1.5)


def test_a_network_that_runs_every_block_is_dense(ours: list[Row]) -> None:
    dense = {(row.method, row.backbone) for row in ours if row.dense}
    assert dense == {("resnet", "resnet32"), ("resnet", "resnet20")}


def test_unknown_pretraining_is_no_number() -> None:
    (row,) = rows([make_record(pretraining_dense_epochs=None)])
    assert (row.total_dense_epochs, row.outside) == (None, "none")


@pytest.mark.parametrize(
    ("costs", "differ"),
    [
        ([], False),
        ([30.0], False),
        ([None], False),
        ([30.0, 32.0], False),
        ([30.0, 34.0], True),
        ([30.0, None], True),
    ],
)
def test_budgets_differ_beyond_a_tenth_or_when_one_is_unknown(
    costs: list[float | None], differ: bool
) -> None:
    assert budgets_differ(costs) is differ


@pytest.mark.parametrize(
    ("expression", "count"),
    [
        ("method=sgad", 2),
        ("method=blockdrop,seed=1", 1),
        ("seed=0", 6),
        ("variant=d_max 0.7", 1),
        ("accuracy=0.92620", 1),
        ("status=failed", 1),
        ("dense=true", 2),
        ("latency_ms_b1=", 4),
        ("method=nobody", 0),
    ],
)
def test_a_filter_keeps_what_it_names(ours: list[Row], expression: str, count: int) -> None:
    assert len(filter_rows(ours, expression)) == count


def test_an_unknown_filter_key_gets_the_nearest(ours: list[Row]) -> None:
    with pytest.raises(UnknownNameError, match="Unknown key 'metod'") as caught:
        filter_rows(ours, "metod=sgad")
    assert "method" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="not KEY=VALUE"):
        filter_rows(ours, "sgad")


def test_the_realised_share_is_the_speed_up_over_the_ideal_one() -> None:
    cells = (
        make_cell(latency_ms=2.0, speedup=1.5),
        make_cell(latency_ms=None, batch_size=256),
        make_cell(latency_ms=1.0, speedup=9.0, batch_size=32),
    )
    row = flat(rows([make_record(points=(make_point(nflops=0.5, latency=cells),))])[0])
    assert row["realised_b1"] == pytest.approx(0.75)
    assert (row["speedup_low_b1"], row["speedup_high_b1"]) == pytest.approx((1.47, 1.53))
    assert row["contended_b1"] is False
    for key in ("speedup", "speedup_low", "speedup_high", "realised", "verdict", "contended"):
        assert row[f"{key}_b256"] is None
