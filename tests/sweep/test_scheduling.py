"""Trials on Ray: as many at a time as there is room for, shares of a GPU counted by Ray alone."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.errors import ConfigError
from bench.options import read_options
from bench.sweep import ray_connection
from bench.sweep.ledger import Progress
from bench.sweep.options import SweepOptions
from bench.sweep.trials import Proposal

ray = pytest.importorskip("ray")
scheduling = importlib.import_module("bench.sweep.scheduling")
NODES = [
    {"Resources": {"CPU": 8.0, "GPU": 1.0}},
    {"Resources": {"CPU": 2.0}},
]


class Five:
    """As much of a ledger as Tune needs; counts who is running."""

    total = 5

    def __init__(self) -> None:
        self.progress = [Progress(Proposal("sgad", n, {}), 0, None) for n in range(self.total)]
        self.running, self.most, self.ended = 0, 0, list[str]()

    def trials(self) -> Iterator[Progress]:
        yield from self.progress

    def hear(self, progress: Progress, kind: str, what: Any) -> None:
        progress.state = "finished"
        self.running -= 1
        self.ended.append(kind)

    def begin(self, progress: Progress) -> None:
        self.running += 1
        self.most = max(self.most, self.running)


@pytest.fixture
def machine() -> Iterator[None]:
    """Ray's word for a machine of eight cores and a GPU, whatever there is."""
    scratch = ray_connection._scratch()
    ray.init(
        num_cpus=8,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        _temp_dir=str(scratch),
    )
    yield
    ray.shutdown()
    shutil.rmtree(scratch, ignore_errors=True)


def test_four_trials_share_a_gpu_and_a_fifth_waits(
    machine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trial(config: Mapping[str, Any]) -> None:
        import tempfile
        import time

        from ray import tune

        tempfile.mkstemp(dir=config["job"])
        end = time.monotonic() + 60  # until four are there: they are at work together
        while len(os.listdir(config["job"])) < 4 and time.monotonic() < end:
            time.sleep(0.05)
        tune.report({"percent": 100, "score": 0.9, "said": [("finished", [[0.5, 0.9]])]})

    monkeypatch.setattr(scheduling, "run_trial", trial)
    options = read_options(SweepOptions, {"gpus_per_trial": 0.25, "device": "cpu"})
    ledger = Five()
    (files := tmp_path / "files").mkdir()
    job = lambda progress, device: str(files)  # noqa: E731
    scheduling.schedule(ledger, ledger.trials(), options, job, scratch=tmp_path)  # type: ignore[arg-type]
    assert ledger.ended == ["finished"] * 5
    assert ledger.most == 4


def test_a_share_that_no_machine_has_is_refused_with_what_there_is() -> None:
    options = read_options(SweepOptions, {"gpus_per_trial": 2.0, "device": "cpu"})
    with pytest.raises(ConfigError, match="2 GPUs") as caught:
        scheduling.resources_of_trial(options, NODES)
    assert "8 CPUs and 1 GPUs" in str(caught.value)
