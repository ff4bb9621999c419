"""`bench` in this process, small runs by the API, and who keeps what is told of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bench import api
from bench.cli import app
from bench.folders import Folders
from bench.options import RunOptions, read_options
from bench.training.reporter import Reporter

QUICK = {"backbone": "resnet8", "recipe": "smoke", "controls": "none"} | {
    "latency": "off",
    "device": "cpu",
}


class Heard(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def run_options(given: Mapping[str, Any], *, file: Path | None = None) -> RunOptions:
    return read_options(RunOptions, given, file=file)


def bench(*arguments: str, results: Path) -> Result:
    """Do a command on a results folder, on a terminal of 120 columns."""
    runner = CliRunner(env={"BENCH_RESULTS": str(results), "COLUMNS": "120"})
    return runner.invoke(app, list(arguments))


def rows_in(results: Path, *arguments: str) -> list[dict[str, Any]]:
    """Return what `bench results` says."""
    outcome = bench("results", "--format", "json", *arguments, results=results)
    assert outcome.exit_code == 0, outcome.stderr
    rows: list[dict[str, Any]] = json.loads(outcome.stdout)
    return rows


def run(
    folders: Folders, methods: str, *, reporter: Reporter | None = None, **more: Any
) -> api.CommandResult:
    """Train methods for an epoch, alone and not timed, unless `more` says otherwise."""
    options = run_options({**QUICK, "methods": methods, **more})
    return api.run(options, folders, reporter=reporter)


def new_folders(factory: pytest.TempPathFactory) -> Folders:
    return Folders(factory.mktemp("results"), factory.mktemp("data"))
