"""A trial in a Ray worker, as far as it needs no Ray."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sweep_parts import job_of

from bench.sweep.options import Objective
from bench.sweep.worker import JOB, SAID, TrialJob, run_trial


def test_a_trial_fails_in_words_on_a_machine_that_does_not_see_the_results_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.tune.report", told.append)
    job = job_of(SimpleNamespace(budget=SimpleNamespace(epochs=3)), tmp_path)
    document = tmp_path / "sweeps" / "of-another-machine.json"
    run_trial({JOB: TrialJob(job, Objective(None, 10), str(document))})
    [(kind, what)] = told[0][SAID]
    assert kind == "failed" and "does not see the results folder" in what["reason"]
