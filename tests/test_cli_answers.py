"""What the command line says where there is nothing to show or a request cannot be served."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import bench

from bench.records.record import RunRecord
from bench.records.store import RunStore


@pytest.fixture
def results(tmp_path: Path, make_record: Callable[..., RunRecord]) -> Path:
    """A results folder with three finished runs, without weights."""
    store = RunStore(tmp_path / "results")
    for method in ("sgad", "blockdrop", "resnet"):
        store.save(make_record(method))
    return store.results_dir


def test_a_filter_that_matches_nothing_is_said(results: Path) -> None:
    outcome = bench("results", "--filter", "method=act", results=results)
    assert outcome.exit_code == 0
    assert "No run matches 'method=act'" in outcome.stderr
    assert "bench run" not in outcome.stderr


def test_a_path_may_begin_at_home_wherever_it_is_given(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for arguments in (("--results-dir=~/results",), ("--results-dir", "~/results")):
        outcome = bench("list", "runs", *arguments, results=tmp_path / "elsewhere")
        assert "blockdrop" in outcome.stdout
    assert "blockdrop" in bench("list", "runs", results=Path("~/results")).stdout
    outcome = bench("pareto", "--out=~/plot.svg", results=results)
    assert outcome.exit_code == 0, outcome.stderr
    assert (tmp_path / "plot.svg").is_file()


@pytest.mark.parametrize(
    ("command", "status"),
    [(("results",), 0), (("list", "runs"), 0), (("pareto",), 2), (("report",), 2)],
)
def test_where_there_are_no_runs_the_folder_is_named(
    command: tuple[str, ...], status: int, tmp_path: Path
) -> None:
    outcome = bench(*command, results=tmp_path / "mistyped")
    assert outcome.exit_code == status
    said = outcome.output.replace("\n", "")
    assert "mistyped, which does not exist" in said
    assert "bench run" in said


@pytest.mark.parametrize("command", [("results",), ("list", "runs"), ("pareto",)])
def test_a_file_is_no_results_folder(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = bench(*command, results=tmp_path / "file")
    assert outcome.exit_code == 2
    assert "a file stands where a folder should be" in outcome.stderr
    assert "--results-dir" in outcome.stderr


@pytest.mark.parametrize("command", [("report",), ("pareto",)])
def test_a_place_that_cannot_be_written_is_the_one_given_with_out(
    command: tuple[str, ...], results: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    outcome = bench(*command, "--out", str(tmp_path / "file" / "a.html"), results=results)
    assert outcome.exit_code == 2
    assert "--out" in outcome.stderr
    assert "--results-dir" not in outcome.stderr


@pytest.mark.parametrize("format", ["csv", "json", "md", "latex"])
def test_results_come_in_every_format_and_end_with_one_end_of_line(
    format: str, results: Path
) -> None:
    text = bench("results", "--format", format, results=results).stdout
    assert "sgad" in text and text.endswith("\n") and not text.endswith("\n\n")


def test_an_unknown_listing_gets_a_plain_message(results: Path) -> None:
    outcome = bench("list", "method", results=results)
    assert outcome.exit_code == 2
    assert outcome.stderr.splitlines()[0] == "Error: Unknown listing 'method'."
    assert "'methods'" in outcome.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("metods: sgad", "Did you mean 'methods'?"),
        ("settings: [sgad.d_max=1]", "settings: {method: {key: value}}"),
        ("steps: [{methods: sgad}]", "no option 'steps'"),
    ],
)
def test_a_wrong_file_of_options_is_refused_with_the_way_out(
    text: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(text)
    outcome = bench("run", "--config", str(tmp_path / "run.yaml"), results=tmp_path)
    assert outcome.exit_code == 2
    assert words in outcome.stderr
    assert "Extra inputs" not in outcome.stderr and "run.yaml" in outcome.stderr


def test_an_unknown_method_to_check_may_be_one_that_is_not_installed(tmp_path: Path) -> None:
    outcome = bench("method", "check", "my_method", results=tmp_path)
    assert outcome.exit_code == 2
    assert "pip install -e" in outcome.stderr and "--plugin FILE" in outcome.stderr


def test_a_data_set_that_is_not_here_comes_with_the_way_to_it(tmp_path: Path) -> None:
    outcome = bench("data", "verify", "cifar10", "--data-dir", str(tmp_path), results=tmp_path)
    assert outcome.exit_code == 2
    assert "bench data fetch cifar10" in outcome.stderr


def test_the_doctor_fails_where_results_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = bench("doctor", "--data-dir", str(tmp_path), results=tmp_path / "file")
    assert outcome.exit_code == 1
    said = " ".join(outcome.stdout.split())
    assert "a file stands where a folder should be" in said and "--results-dir" in said
    assert "NotADirectoryError" not in said
    assert "onnxruntime" in said and "optuna" in said


def test_nothing_to_log_makes_no_folder(tmp_path: Path) -> None:
    outcome = bench("mlflow", "sync", results=tmp_path / "none")
    assert outcome.exit_code == 0
    assert "No runs in" in outcome.stderr
    assert not (tmp_path / "none").exists()


def test_mlflow_takes_over_and_hears_the_address_in_its_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@host/db")
    asked: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda program, command: asked.append(command))
    assert bench("mlflow", "ui", "--port", "99999", results=tmp_path).exit_code == 2
    assert bench("mlflow", "ui", "--port", "5017", results=tmp_path).exit_code == 0
    assert asked[0][1:] == ["-m", "mlflow", "ui", "--port", "5017"]
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:secret@host/db"
