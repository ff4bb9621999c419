"""Many run commands in one file: read, laid over what is common, done once, continued."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import bench

from bench import api
from bench.folders import Folders
from bench.options import read_campaign

SMALL = """
common: {backbone: resnet8, recipe: smoke, controls: [none], latency: "off",
         settings: {train: {lr: 0.05}}}
steps:
  - {methods: [resnet]}
  - {methods: [sgad], settings: {sgad: {d_max: 0.9}}}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "campaign.yaml"
    file.write_text(SMALL)
    return file


def test_a_step_is_laid_over_what_is_common_setting_by_setting(small: Path) -> None:
    first, second = read_campaign(small)
    assert first.methods == ("resnet",)
    assert first.settings == {"train": {"lr": 0.05}}
    assert second.settings == {"train": {"lr": 0.05}, "sgad": {"d_max": 0.9}}
    assert second.backbone == "resnet8"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps: []", "steps"),
        ("steps: [{methods: [resnet], epoch: 3}]", "'epoch' in step 1"),
        ("steps: [{epochs: -1}]", "'epochs' in step 1"),
        ("common: {x: 1}\nsteps: [{}]", "'x' in common"),
        ("stps: []", "stps"),
        ("- 1", "must map"),
    ],
)
def test_what_is_no_campaign_is_said(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "campaign.yaml"
    file.write_text(text)
    result = bench("campaign", str(file), results=tmp_path)
    assert result.exit_code == 2, result.output
    assert words in result.stderr.replace("\n", " ")


def test_a_campaign_runs_its_steps_goes_on_after_a_bad_one_and_does_nothing_twice(
    tmp_path: Path, small: Path
) -> None:
    small.write_text(SMALL + "  - {methods: [nobody]}\n  - {methods: [resnet], seeds: [1]}\n")
    first = bench("campaign", str(small), results=tmp_path)
    assert first.exit_code == 1, first.output
    assert "Failed: step 3 of 4: Unknown method 'nobody'" in first.stderr
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/record.json")}
    assert len(before) == 3
    assert bench("campaign", str(small), results=tmp_path).exit_code == 1
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/record.json")} == before


def test_no_run_is_begun_when_the_time_is_up(tmp_path: Path, small: Path) -> None:
    outcome = api.campaign(read_campaign(small), Folders(tmp_path, tmp_path), hours=0.0)
    assert (outcome.records, outcome.left) == ([], 2)
    result = bench("campaign", str(small), "--hours", "0", results=tmp_path)
    assert "Not begun: 2 runs; the same command continues." in result.stderr
