"""`--precision auto`: measured, recorded; a finished run is found whatever a machine chooses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from commands import Heard, run

from bench.engine import fitting
from bench.folders import Folders
from bench.networks.trunk import Backbone

BACKBONE = Backbone("resnet8", 10, (1, 8, 8))


@pytest.fixture(autouse=True)
def nothing_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_chosen", {})


def _run(folder: Path, methods: str) -> dict[str, str]:
    asked = {"dataset": "digits", "epochs": 0, "precision": "auto"}
    records = run(Folders(folder, folder), methods, **asked).records
    assert [record.status for record in records] == ["finished"] * len(records)
    return {record.run: record.spec.precision for record in records}


@pytest.mark.parametrize(("ratio", "expected"), [(1.9, "bf16"), (1.1, "fp32"), (0.3, "fp32")])
def test_the_faster_precision_is_taken_if_it_is_worth_it(
    ratio: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_speed_of_bf16", lambda *_: ratio)
    heard = Heard()
    device = torch.device("cpu")
    assert fitting.faster_precision(BACKBONE, device, note=heard.note) == expected
    assert fitting.faster_precision(BACKBONE, device, note=heard.note) == expected
    assert len(heard.notes) == 1
    assert f"{expected}: in bf16 resnet8 trains at {ratio:.2f}x" in heard.notes[0]


def test_the_trial_really_trains_and_draws_no_random_numbers_of_the_run() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    heard = Heard()
    fitting.faster_precision(BACKBONE, torch.device("cpu"), note=heard.note)
    assert torch.equal(torch.get_rng_state(), before)
    assert "x the speed of fp32" in heard.notes[0]


def test_a_finished_run_is_found_by_a_machine_that_chooses_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = "resnet,random_skip_test"
    monkeypatch.setattr(fitting, "_speed_of_bf16", lambda *_: 2.0)
    first = _run(tmp_path, "resnet")
    assert set(first.values()) == {"bf16"}
    monkeypatch.setattr(fitting, "_chosen", {})
    monkeypatch.setattr(fitting, "_speed_of_bf16", lambda *_: 0.5)
    again = _run(tmp_path, both)
    # What is made from the finished run is made from it, not from one that is trained anew.
    assert first.items() <= again.items()
    assert list(again.values()) == ["bf16", "bf16"]
    fresh = _run(tmp_path / "other", both)
    assert list(fresh.values()) == ["fp32", "fp32"]
