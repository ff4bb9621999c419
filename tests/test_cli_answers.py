"""What the command line says where there is nothing to show or a request cannot be served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bench.cli import app
from bench.records.record import RunRecord
from bench.records.store import RunStore


@pytest.fixture
def results(tmp_path: Path, make_record: Callable[..., RunRecord]) -> Path:
    """A results folder with three finished runs, without weights."""
    store = RunStore(tmp_path / "results")
    for method in ("sgad", "blockdrop", "resnet"):
        store.save(make_record(method))
    return store.results_dir


def _bench(*arguments: str, results: Path) -> Result:
    runner = CliRunner(env={"BENCH_RESULTS": str(results), "COLUMNS": "120"})
    return runner.invoke(app, list(arguments))


def test_a_filter_that_matches_nothing_names_what_is_recorded(results: Path) -> None:
    outcome = _bench("results", "--filter", "method=act", results=results)
    assert outcome.exit_code == 0
    assert "No run matches 'method=act'" in outcome.stderr
    assert "method blockdrop, resnet, sgad" in outcome.stderr
    assert "bench run" not in outcome.stderr


@pytest.mark.parametrize("command", [("results",), ("list", "runs"), ("pareto",), ("report",)])
def test_where_there_are_no_runs_the_folder_is_named(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    outcome = _bench(*command, results=tmp_path / "mistyped")
    said = outcome.output.replace("\n", "")
    assert "mistyped, which does not exist" in said
    assert "bench run" in said


@pytest.mark.parametrize("command", [("results",), ("list", "runs"), ("pareto",)])
def test_a_file_is_no_results_folder(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    outcome = _bench(*command, results=tmp_path / "file")
    assert outcome.exit_code == 2
    assert "a file stands where a folder should be" in outcome.stderr
    assert "--results-dir" in outcome.stderr


@pytest.mark.parametrize("command", [("report",), ("pareto",)])
def test_a_place_that_cannot_be_written_is_the_one_given_with_out(
    command: tuple[str, ...], results: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    outcome = _bench(*command, "--out", str(tmp_path / "file" / "a.html"), results=results)
    assert outcome.exit_code == 2
    assert "--out" in outcome.stderr
    assert "--results-dir" not in outcome.stderr


@pytest.mark.parametrize("format", ["csv", "json", "md", "latex"])
def test_results_end_with_one_end_of_line(format: str, results: Path) -> None:
    text = _bench("results", "--format", format, results=results).stdout
    assert text.endswith("\n") and not text.endswith("\n\n")


def test_an_unknown_listing_gets_a_plain_message(results: Path) -> None:
    outcome = _bench("list", "method", results=results)
    assert outcome.exit_code == 2
    assert outcome.stderr.splitlines()[0] == "Error: Unknown listing 'method'."
    assert "'methods'" in outcome.stderr
