"""Runs side by side: as many as fit, in order, with the numbers of runs one after the other."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import QUICK, Heard, run, run_options
from safetensors.torch import load_file

from bench import api
from bench.engine import side_by_side
from bench.engine.side_by_side import Parallelism, parallelism_of
from bench.folders import Folders
from bench.method import METHODS
from bench.records.store import RunStore
from bench.training.reporter import Overall, Reporter

FAILS = """
import os, signal
from baselines.resnet import DenseResNet

class Bad(DenseResNet):
    name = "bad"

    def build(self, backbone, config):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(side_by_side, "usable_cores", lambda: 2.0)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for is worth processes."""
    monkeypatch.setattr(side_by_side, "_WORTH_A_PROCESS_IMAGES", 0)


def _parallelism(tmp_path: Path, **given: Any) -> Parallelism:
    options = run_options({**QUICK, **given})
    command = api._command(options, Folders(tmp_path, tmp_path), Reporter(), loaded={})
    return parallelism_of(list(side_by_side._tasks([command]).values()))


def _bits(results: Path) -> dict[str, bytes]:
    """Return arrays as files, and tensors: names in the head of a file of weights come in any order
    of theirs."""
    files = sorted(results.glob("runs/*/*"))
    found = {str(p.relative_to(results)): p.read_bytes() for p in files if p.suffix == ".npz"}
    for path in (path for path in files if path.suffix == ".safetensors"):
        for name, tensor in load_file(path).items():
            found[f"{path.relative_to(results)}/{name}"] = tensor.numpy().tobytes()
    return found


def test_small_images_get_one_thread_and_large_ones_share_the_cores(tmp_path: Path) -> None:
    demo = {"methods": "resnet,sgad", "epochs": 30}
    assert _parallelism(tmp_path, **demo) == Parallelism(2, 1, here=False)
    assert _parallelism(tmp_path, methods="resnet", epochs=30) == Parallelism(1, 1, here=True)
    assert _parallelism(tmp_path, **demo, threads=2) == Parallelism(1, 2, here=False)
    large = {"dataset": "digits", "settings": {"train": {"batch_size": 8192}}, "epochs": 30}
    assert _parallelism(tmp_path, **large, methods="resnet").threads == 2
    assert _parallelism(tmp_path, **large, methods="resnet,sgad").threads == 1


def test_what_is_quicker_than_a_process_is_done_here(tmp_path: Path) -> None:
    assert _parallelism(tmp_path, methods="resnet,sgad").here


def test_runs_that_wait_for_another_do_not_count_as_side_by_side(tmp_path: Path) -> None:
    given = {"recipe": "fair", "epochs": 30, "methods": "blockdrop"}
    assert _parallelism(tmp_path, **given).processes == 1
    assert _parallelism(tmp_path, **given, seeds="0,1").processes == 2


def test_the_variable_of_the_environment_counts_where_no_option_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert _parallelism(tmp_path, methods="resnet,sgad", epochs=30) == Parallelism(1, 2, here=False)
    assert _parallelism(tmp_path, methods="resnet,sgad", epochs=30, threads=1).processes == 2


def test_memory_limits_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "available_memory_bytes", lambda: 2**30)
    assert _parallelism(tmp_path, methods="resnet,sgad", epochs=30).processes == 1


def test_side_by_side_gives_the_bits_of_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"methods": "sgad", "controls": "static_projection"}
    serial = run(Folders(tmp_path / "serial", tmp_path), **asked)
    monkeypatch.setattr(side_by_side, "_WORTH_A_PROCESS_IMAGES", 0)
    beside = run(Folders(tmp_path / "beside", tmp_path), **asked)
    assert [r.run for r in beside.records] == [r.run for r in serial.records]
    assert len(serial.records) == 3
    assert _bits(tmp_path / "beside") == _bits(tmp_path / "serial")
    for one, other in zip(serial.records, beside.records, strict=True):
        assert [p.accuracy for p in one.points] == [p.accuracy for p in other.points]
        assert one.environment.values["threads"] == other.environment.values["threads"] == 1


@pytest.mark.usefixtures("in_processes")
def test_one_that_dies_stops_those_made_from_it_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(FAILS)
    METHODS.add_file(file)
    outcome = run(Folders(tmp_path, tmp_path), "bad,resnet", seeds="0,1")
    assert [record.spec.method for record in outcome.records] == ["resnet", "resnet"]
    assert [f.run.partition("-")[0] for f in outcome.failures] == ["bad", "bad"]
    assert all("memory" in failure.reason for failure in outcome.failures)


class _Hearing(Heard):
    def __init__(self) -> None:
        super().__init__()
        self.states: list[Overall] = []
        self.begun = threading.Event()

    def advanced(self, images: int) -> None:
        self.begun.set()

    def overall(self, state: Overall) -> None:
        self.states.append(state)


@pytest.mark.usefixtures("in_processes")
def test_all_runs_together_are_told_with_the_time_left(tmp_path: Path) -> None:
    heard = _Hearing()
    run(Folders(tmp_path, tmp_path), "resnet,sgad", reporter=heard)
    seen = [state.images for state in heard.states]
    assert seen == sorted(seen)
    assert heard.states[-1].done == heard.states[-1].runs == 2
    assert seen[-1] == heard.states[-1].of_images
    assert any("1 of 2 runs done, about" in note for note in heard.notes)


@pytest.mark.usefixtures("in_processes")
def test_an_interrupt_stops_all_and_the_same_request_continues(tmp_path: Path) -> None:
    heard, folders = _Hearing(), Folders(tmp_path, tmp_path)

    def interrupt() -> None:
        if heard.begun.wait(60):  # otherwise the run failed, and another test would be hit
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    # What starts tests in the background may have told them to ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(folders, "resnet,sgad", reporter=heard, epochs=400)
    finally:
        signal.signal(signal.SIGINT, before)
    store = RunStore(tmp_path)
    assert store.load_all().records == []
    again = run(folders, "resnet,sgad", epochs=1)
    assert [record.status for record in again.records] == ["finished", "finished"]
