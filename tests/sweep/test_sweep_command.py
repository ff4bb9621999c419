"""`bench sweep` on Ray as a user meets it: a table, records, a choice, and nothing done twice."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import bench

SMALL = ["--backbone", "resnet8", "--recipe", "smoke", "--held-out", "100"]


def _record_times(results: Path) -> dict[str, int]:
    return {p.parent.name: p.stat().st_mtime_ns for p in results.glob("runs/*/record.json")}


def _document(results: Path) -> dict[str, Any]:
    newest = max(results.glob("sweeps/*.json"), key=lambda path: path.stat().st_mtime_ns)
    document: dict[str, Any] = json.loads(newest.read_text())
    return document


def test_a_sweep_runs_each_trial_once_survives_a_bad_one_and_a_larger_grid_runs_only_what_is_new(
    tmp_path: Path,
) -> None:
    grid = ["sweep", "--methods", "sgad", *SMALL, "--param"]
    first = bench(*grid, "sgad.gamma=0.1,-1", results=tmp_path)
    assert first.exit_code == 1, first.output  # one of two trials failed
    assert "greater than or equal to 0" in first.output
    before = _record_times(tmp_path)
    assert len(before) == 1
    # A rule that might stop trials, had it three to compare with.
    median = ("--scheduler", "median")
    second = bench(*grid, "sgad.gamma=0.1,0.5", *median, results=tmp_path)
    assert second.exit_code == 0, second.output
    assert "recorded" in second.stdout and "front" in second.stdout.lower()
    after = _record_times(tmp_path)
    assert len(after) == 2
    document = _document(tmp_path)
    assert document["ended"] is True
    assert [t["status"] for t in document["trials"]] == ["recorded", "finished"]
    assert "held-out" in str(document["criterion"])
    assert len(document["chosen"]["sgad"]) == 1

    # The record is the one that `bench run` writes: it finds it and has nothing to do.
    run = bench(
        *("run", "--methods", "sgad", *SMALL, "--set", "sgad.gamma=0.5"),
        *("--controls", "none", "--latency", "off"),
        results=tmp_path,
    )
    assert run.exit_code == 0, run.output
    assert _record_times(tmp_path).keys() == after.keys()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--param", "sgad.gama=1,2"], "sgad' has no setting 'gama"),
        (["--param", "blockdrop.penalty=1,2"], "'blockdrop' has settings here"),
        (["--param", "nothing.x=1"], "nothing"),
        (["--param", "sgad.gamma=uniform:0:1", "--search", "grid"], "A grid needs values"),
        (["--param", "sgad.gamma=1", "--search", "grid", "--samples", "3"], "no --samples"),
        (["--held-out", "0"], "--held-out: 0 cannot be used"),
        (["--methods", "static_projection"], "made from a finished run"),
        (["--methods", "nobody"], "nobody"),
        (["--threads", "4096"], "No machine can take a trial"),
        (["--address", "127.0.0.1:1"], "no Ray cluster at '127.0.0.1:1'"),
        (["--address", "ray://127.0.0.1:10001"], "Give HOST:PORT of its head"),
    ],
)
def test_what_cannot_be_swept_is_said_before_anything_runs(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    result = bench("sweep", *SMALL, *arguments, results=tmp_path)
    assert result.exit_code == 2, result.output
    assert words in result.stderr.replace("\n", " ")
    assert not list(tmp_path.glob("runs/*"))
