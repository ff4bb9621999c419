"""Tables: every format reads back, nothing a plugin names breaks them, footnotes say the truth."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console
from synthetic_records import make_cell, make_point, make_record

from bench.config import InitialWeights
from bench.records.record import Dynamics, RunRecord
from bench.report.data.budgets import spent
from bench.report.data.row import KEYS
from bench.report.data.rows import rows
from bench.report.data.study import group_seeds
from bench.report.tables.results import (
    render,
    results_table,
    rich_table,
)


def shown(records: list[RunRecord], *, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(rich_table(rows(records), width=width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_shortened_schedule_of_a_paper_is_said() -> None:
    shortened = [make_record("sgad", recipe="paper", epochs=80), make_record("act", epochs=30)]
    assert "epochs, of those of the paper: sgad 80 of 220" in shown(shortened)
    assert rows(shortened)[0].published_epochs == 220
    whole = [make_record("sgad", recipe="paper", epochs=220), make_record("act", epochs=30)]
    assert "of those of the paper" not in shown(whole)


@pytest.mark.parametrize("width", [30, 45, 60, 80, 100, 200])
def test_a_narrow_terminal_keeps_names_and_whole_cells(
    width: int, comparison: list[RunRecord]
) -> None:
    text = shown(comparison, width=width)
    assert "…" not in text
    assert width < 60 or max(len(line.rstrip()) for line in text.splitlines()) <= width
    for record in comparison:
        assert record.spec.method in text
    every = [title for title in ("accuracy, %", "nFLOPs", "backbone", "MMACs") if title in text]
    assert "accuracy, %" in every
    assert ("a wider terminal also shows" in text) is (width < 200)


def test_json_is_a_list_of_flat_objects(comparison: list[RunRecord]) -> None:
    found = json.loads(render(rows(comparison), "json"))
    assert len(found) == 8
    assert list(found[0])[: len(KEYS)] == list(KEYS)
    assert found[0]["accuracy"] == 0.9262
    assert found[-1]["accuracy"] is None


def test_csv_keeps_full_precision_and_whole_numbers(comparison: list[RunRecord]) -> None:
    text = render(rows(comparison), "csv")
    back = pd.read_csv(io.StringIO(text))
    assert list(back["macs"].dropna()) == [r.macs for r in rows(comparison) if r.macs]
    assert ",465000," in text
    assert "465000.0" not in text


def test_a_table_without_rows_has_its_columns() -> None:
    assert json.loads(render([], "json")) == []
    assert render([], "csv").startswith("run,method,")
    assert "| method" in render([], "md")
    assert "\\begin{tabular}" in render([], "latex")


def test_names_cannot_break_markdown_or_latex() -> None:
    found = rows([make_record("a|b", variant="50%_{x}&y")])
    line = render(found, "md").splitlines()[4]
    assert "a\\|b" in line
    assert line.replace("\\|", "").count("|") == 12
    assert "50\\%\\_\\{x\\}\\&y" in render(found, "latex")


@pytest.mark.parametrize("format", ["md", "latex"])
def test_a_document_names_the_settings_that_differ_and_how_sure_a_speed_up_is(format: str) -> None:
    cell = make_cell(latency_ms=2.0, speedup=1.5, contended=True)
    found = [
        make_record("skipnet", config={"hrl_lr": lr}, points=(make_point(latency=(cell,)),))
        for lr in (0.25, 0.5)
    ]
    text = render(rows(found), format).replace("\\", "")
    assert "hrl_lr=0.25" in text and "hrl_lr=0.5" in text
    low, high = cell.speedup_interval.low, cell.speedup_interval.high
    assert f"{low:.2f} to {high:.2f}" in text
    assert ("1.50x▲†" if format == "md" else "1.50x$uparrow$dag") in text


def test_a_narrow_terminal_says_which_columns_it_left_out(comparison: list[RunRecord]) -> None:
    table, _, left_out = shown(comparison, width=80).partition("a wider terminal also shows: ")
    assert left_out.startswith("speed-up eager b=256, 95 % eager b=1, ")
    assert "MMACs" in left_out and "MMACs" not in table
    assert "a wider terminal" not in shown(comparison, width=160)


def test_a_method_is_named_once_among_those_with_reconstructed_settings() -> None:
    found = [
        make_record("sgad", seed=0, reconstructed=("kappa",)),
        make_record("sgad", recipe="finetune", reconstructed=("kappa", "d_max")),
    ]
    assert "with settings that no publication states: sgad\n" in shown(found, width=200)


def test_the_terminal_table_shows_speed_with_its_verdict(comparison: list[RunRecord]) -> None:
    line, *_ = [line for line in shown(comparison).splitlines() if "d_max 0.9" in line]
    assert "92.57" in line
    assert "0.830" in line
    assert "1.07x▲" in line
    assert "0.93x▼" in line


def test_seeds_are_one_line_with_mean_and_sample_sd(comparison: list[RunRecord]) -> None:
    line, *_ = [line for line in shown(comparison).splitlines() if line.startswith(" blockdrop")]
    assert "91.17 ±0.21" in line
    assert line.split()[2:6] == ["±0.21", "0.492", "resnet32", "3"]


def test_different_recipes_and_points_are_not_taken_for_seeds() -> None:
    points = (make_point("a"), make_point("b"))
    records = [make_record(points=points), make_record(recipe="finetune", points=points)]
    assert [group.seeds for group in group_seeds(rows(records))] == [1, 1, 1, 1]
    assert "sgad a, finetune" in shown(records)


def test_footnotes_name_unequal_budgets_and_reconstructions(comparison: list[RunRecord]) -> None:
    text = shown(comparison)
    assert "budgets differ, in dense epochs: 57 (blockdrop); 30 (resnet, sgad)" in text
    assert "settings that no publication states: blockdrop" in text
    assert "act (seed 0) failed: the loss is not a number at epoch 3" in text


def test_equal_budgets_have_no_footnote() -> None:
    assert "budgets" not in shown([make_record(), make_record("skipnet")])


def test_synthetic_data_is_marked() -> None:
    text = shown([make_record(dataset="synthetic", synthetic=True)])
    assert "synthetic (synthetic data)" in text
    assert "not a result about real images" in text


def test_latencies_of_two_machines_are_differences() -> None:
    records = [
        make_record(m, points=(make_point(latency=(make_cell(latency_ms=1.0, device=d),)),))
        for m, d in (("sgad", "cpu"), ("skipnet", "cuda"))
    ]
    assert "compare within one machine only" in shown(records)


def test_square_brackets_in_a_name_are_printed() -> None:
    assert "[red]x" in shown([make_record("sgad", variant="[red]x")])


def test_no_runs_say_how_to_start_one() -> None:
    assert "bench run" in shown([])


def test_a_table_of_its_own_says_whether_decisions_follow_the_image() -> None:
    dynamics = Dynamics(shuffled_accuracy=0.9, shuffled_loss=0.0123, difficulty_correlation=0.4567)
    point = make_point(accuracy=0.9123, nflops=0.5, dynamics=dynamics)
    text = shown(
        [
            make_record("resnet", points=(make_point(nflops=1.0),)),
            make_record("sgad", points=(point,)),
        ]
    )
    table = text[text.index("Is it dynamic?") :]
    (line,) = [line for line in table.splitlines() if line.startswith(" sgad")]
    assert "137" in line and "-1.23" in line and "+0.46" in line
    assert not any(line.startswith(" resnet") for line in table.splitlines())


def test_without_gates_there_is_no_table_of_dynamics() -> None:
    assert "Is it dynamic?" not in shown([make_record("resnet", points=(make_point(nflops=1.0),))])


def test_an_unknown_start_is_marked_in_the_training_cost() -> None:
    (row,) = rows([make_record()])
    known = replace(row, known_dense_epochs=30.0)
    unknown = replace(row, known_dense_epochs=8.0, outside="a.th")
    assert (spent(known), spent(unknown)) == ("30", "8+?")
    # One and one and a half are different budgets.
    assert [spent(replace(known, known_dense_epochs=cost)) for cost in (1.0, 1.49)] == ["1", "1.5"]


def test_what_was_timed_on_a_shared_machine_has_a_dagger() -> None:
    quiet = make_cell(latency_ms=2.0, speedup=1.5)
    assert "†" not in shown([make_record(points=(make_point(latency=(quiet,)),))])
    shared = quiet.model_copy(update={"contended": True})
    text = shown([make_record(points=(make_point(latency=(shared,)),))])
    assert "1.50x▲†" in text and "† timed while other processes took part of the machine" in text


def test_runs_that_differ_in_a_setting_are_not_taken_for_seeds_and_are_differences() -> None:
    others = [make_record("sgad", config={"gamma": gamma, "beta": 1}) for gamma in (0.1, 0.3)]
    groups = group_seeds(rows(others))
    assert [group.seeds for group in groups] == [1, 1]
    assert {group.distinguishing for group in groups} == {"gamma=0.1", "gamma=0.3"}


def test_the_same_seed_twice_is_two_networks_and_not_two_seeds() -> None:
    def projected(start: str, seed: int = 0) -> RunRecord:
        initial = InitialWeights(kind="run", name=f"sgad-x-{start}", identity="0123456789ab")
        return make_record("static_projection", initial=initial, seed=seed)

    one, twin = projected("s0-0123456789ab"), projected("s0-ba9876543210")
    assert [group.seeds for group in group_seeds(rows([one, twin]))] == [1, 1]
    other_seed = projected("s1-ba9876543210", seed=1)
    assert [group.seeds for group in group_seeds(rows([one, other_seed]))] == [2]


def test_a_missing_time_has_its_reason_where_it_would_stand() -> None:
    few = make_cell(latency_ms=None, reason="255 test images, 256 needed")
    timed = make_cell(latency_ms=1.0, speedup=1.2)
    batch = timed.model_copy(update={"batch_size": 256})
    records = [
        make_record(points=(make_point(latency=(few,)),)),
        make_record("act", points=(make_point(latency=(timed, batch)),)),
    ]
    text = shown(records, width=200)
    line = next(line for line in text.splitlines() if line.startswith(" sgad"))
    assert line.count("[1]") == 2 and line.count("[2]") == 2 and " - " not in line
    assert "[1] no time: 255 test images, 256 needed" in text
    assert "[2] no time: not timed" in text
    # A batch size that was never asked for has no column, and needs no reason.
    records[1] = make_record("act", points=(make_point(latency=(timed,)),))
    text = shown(records, width=200)
    assert "256 needed" in text and "not timed" not in text and "b=256" not in text
    table = results_table(rows(records))
    act, sgad = (dict(zip(table.titles, line, strict=True)) for line in table.lines)
    assert sgad["speed-up\neager\nb=1"] == "[1]" == sgad["ms\neager\nb=1"]
    assert act["speed-up\neager\nb=1"] == "1.20x▲" and act["95 %\neager\nb=1"] == "1.18 to 1.22"
    assert "[1] no time: 255 test images, 256 needed" in table.notes


def test_profiles_in_one_table_are_marked_and_the_careful_one_stays() -> None:
    careful = make_cell(latency_ms=1.0, speedup=1.5)
    quick = make_cell(latency_ms=2.0, speedup=0.5).model_copy(update={"profile": "smoke"})
    kept = make_record(points=(make_point(latency=(careful, quick)),))
    alone = shown([kept])
    assert "1.50x" in alone and "latency profile" not in alone
    text = shown([kept, make_record("act", points=(make_point(latency=(quick,)),))])
    assert "1.50x▲" in text and "0.50x▼" in text
    assert "latency profile default: sgad" in text and "latency profile smoke: act" in text
    elsewhere = quick.model_copy(update={"device": "cuda"})
    moved = make_record(points=(make_point(latency=(careful, elsewhere)),))
    assert "0.50x" in shown([moved])
