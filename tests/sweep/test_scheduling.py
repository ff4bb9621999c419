"""Trials on Ray: as many at a time as there is room for, shares of a GPU counted by Ray alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.errors import ConfigError
from bench.options import read_options
from bench.sweep import ray_connection, scheduling
from bench.sweep.ledger import Progress
from bench.sweep.options import SweepOptions
from bench.sweep.trials import Proposal

ray = pytest.importorskip("ray")
NODES = [
    {"Resources": {"CPU": 8.0, "GPU": 1.0}},
    {"Resources": {"CPU": 2.0}},
]


@pytest.mark.parametrize(
    ("cpu", "gpu", "room"), [(1, 0, 10), (3, 0, 2), (1, 0.25, 4), (1, 1 / 3, 3), (4, 0.25, 2)]
)
def test_the_room_for_trials_is_counted_by_machine(cpu: float, gpu: float, room: int) -> None:
    assert scheduling._room({"cpu": cpu, "gpu": gpu}, NODES) == room


class Five:
    """As much of a ledger as Tune needs; counts who is running."""

    total = 5
    objective = SimpleNamespace(runtime="")

    def __init__(self) -> None:
        self._left = iter(range(self.total))
        self.running, self.most, self.ended = 0, 0, list[str]()

    def next_trial(self) -> Progress | None:
        number = next(self._left, None)
        return None if number is None else Progress(Proposal("sgad", number, {}), 0, None)

    def recalled(self) -> list[Any]:
        return []

    def begin(self, progress: Progress) -> None:
        self.running += 1
        self.most = max(self.most, self.running)

    def settle(self, progress: Progress, state: Any, reason: str = "") -> None:
        progress.state, self.running = state, self.running - 1
        self.ended.append(state)


class Card:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def text(self) -> str:
        return str(self.folder)


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
        told = {"environment": {}, "notes": [], "rows": [], "end": ["finished", [[0.5, 0.9]]]}
        tune.report({"percent": 100, "score": 0.9, "told": json.dumps(told)})

    monkeypatch.setattr(scheduling, "run_trial", trial)
    options = read_options(SweepOptions, {"gpus_per_trial": 0.25, "device": "cpu"})
    ledger = Five()
    scheduling.schedule(ledger, options, lambda progress, device: Card(tmp_path))  # type: ignore[arg-type]
    assert ledger.ended == ["finished"] * 5
    assert ledger.most == 4


def test_a_share_that_no_machine_has_is_refused_with_what_there_is() -> None:
    options = read_options(SweepOptions, {"gpus_per_trial": 2.0, "device": "cpu"})
    with pytest.raises(ConfigError, match="2 GPUs") as caught:
        scheduling._resources(options, NODES)
    assert "8 CPUs and 1 GPUs" in str(caught.value)
