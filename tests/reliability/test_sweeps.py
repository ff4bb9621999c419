"""Sweeps that lose a driver, a trial's process, or a whole machine; machines without the folder."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

SMALL = ["--backbone", "resnet8", "--held-out", "100", "--debug"]
PATIENCE_S = 400.0
TRIAL, DRIVER = "trial raises, hangs, is killed", "driver of a sweep interrupted, killed"
MACHINE, FAR = "machine of a cluster killed in the middle", "machine that sees no results folder"
MISBEHAVES = """
import os, time
from baselines.resnet import DenseResNet
from bench.method import MethodConfig

class Config(MethodConfig):
    deed: str = "none"

class Misbehaves(DenseResNet):
    name = "misbehaves"
    Config = Config

    def build(self, backbone, config):
        if config.deed == "raises":
            raise ValueError("seven is odd")
        if config.deed == "hangs":
            time.sleep(10_000)
        if config.deed == "eats":
            os.kill(os.getpid(), 9)  # as the kernel does when the memory is used up
        return super().build(backbone, config)
"""


# A shell that starts the tests in the background has them ignore Ctrl-C, and children inherit that.
BENCH = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from bench.cli import main; main()"
)


def _start(results: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BENCH, "sweep", *SMALL, *arguments],
        env={**os.environ, "BENCH_RESULTS": str(results), "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _document(results: Path) -> dict[str, Any]:
    [path] = results.glob("sweeps/*.json")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def _states(results: Path) -> dict[str, str]:
    """Return the state of each trial by its settings."""
    trials = _document(results)["trials"]
    return {" ".join(str(v) for v in t["settings"].values()): t["status"] for t in trials}


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not ready():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.2)


def _end(process: subprocess.Popen[str]) -> str:
    try:
        said, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return said


def _left_over(results: Path) -> list[str]:
    """Return the processes of trials that work for a results folder."""
    listed = subprocess.run(
        ["pgrep", "-f", "bench.engine.run_process"], capture_output=True, text=True
    )
    mine = f"BENCH_RESULTS={results}\0".encode()
    found = []
    for process in listed.stdout.split():
        with suppress(OSError):  # it has ended meanwhile
            if mine in Path(f"/proc/{process}/environ").read_bytes():
                found.append(process)
    return found


@pytest.mark.fault(TRIAL)
def test_trials_that_raise_hang_or_are_killed_fail_in_their_rows_and_harm_no_other(
    tmp_path: Path,
) -> None:
    plugin = tmp_path / "misbehaves.py"
    plugin.write_text(MISBEHAVES)
    process = _start(
        tmp_path / "results",
        *("--plugin", str(plugin), "--methods", "misbehaves", "--recipe", "smoke"),
        *("--param", "misbehaves.deed=raises,hangs,eats,none", "--time-limit", "40"),
    )
    said = _end(process)
    assert process.returncode == 1, said
    states = _states(tmp_path / "results")
    assert states == {"raises": "failed", "hangs": "failed", "eats": "failed", "none": "finished"}
    for words in ("seven is odd", "time limit of 40 s", "memory was used up"):
        assert words in said
    assert "Traceback" not in said
    records = [json.loads(p.read_text()) for p in (tmp_path / "results").glob("runs/*/record.json")]
    assert sorted(r["record"]["status"] for r in records) == ["failed"] * 3 + ["finished"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.fault(DRIVER)
def test_a_sweep_whose_driver_ends_leaves_nothing_running_and_goes_on_where_it_was(
    tmp_path: Path, how: signal.Signals
) -> None:
    grid = ["--methods", "resnet", "--epochs", "6", "--param", "train.lr=0.02,0.05,0.1"]
    process = _start(tmp_path, *grid)
    _wait_until(lambda: len(list(tmp_path.glob("runs/*/record.json"))) >= 1, process)
    finished = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/record.json")}
    os.kill(process.pid, how)
    said, _ = process.communicate(timeout=120)
    if how is signal.SIGINT:
        assert process.returncode == 130, said
        assert "Continue with:" in said
        assert _document(tmp_path)["ended"] is False
    end = time.monotonic() + 60
    while _left_over(tmp_path):
        assert time.monotonic() < end, "trials outlive their driver"
        time.sleep(0.5)
    again = _start(tmp_path, *grid)
    said = _end(again)
    assert again.returncode == 0, said
    assert set(_states(tmp_path).values()) == {"finished", "recorded"}
    assert {p: p.stat().st_mtime_ns for p in finished} == finished


@pytest.fixture
def head() -> Iterator[str]:
    """A Ray cluster whose head takes no trials; yields its address."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield str(cluster.address)
    with warnings.catch_warnings():
        # Ray leaves its pipes to the collector, which would complain in some later test.
        warnings.simplefilter("ignore", ResourceWarning)
        cluster.shutdown()
        del cluster
        gc.collect()


def _join(address: str, *, without: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a machine of one CPU; `without` is a folder that it does not see."""
    ray = shutil.which("ray", path=str(Path(sys.executable).parent)) or "ray"
    command = [ray, "start", f"--address={address}", "--num-cpus=1", "--block"]
    if without is not None:
        hide = f"mount -t tmpfs none '{without}' && exec \"$@\""
        command = ["unshare", "--mount", "bash", "-c", hide, "machine", *command]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _break(machine: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(machine.pid, signal.SIGKILL)
    machine.wait()


@pytest.mark.fault(MACHINE)
def test_a_sweep_ends_complete_when_one_of_its_machines_dies_in_the_middle(
    tmp_path: Path, head: str
) -> None:
    mortal = _join(head)
    _wait_for_machines(head, count=2)
    other = _join(head)
    grid = ["--methods", "resnet", "--epochs", "12", "--param", "train.lr=0.01,0.02,0.05,0.1"]
    try:
        _wait_for_machines(head, count=3)
        process = _start(tmp_path, "--address", head, *grid)
        _wait_until(lambda: len(list(tmp_path.glob("runs/*"))) >= 2, process)
        _break(mortal)
        said = _end(process)
    finally:
        _break(mortal)
        _break(other)
    assert process.returncode == 0, said
    assert list(_states(tmp_path).values()) == ["finished"] * 4


def _wait_for_machines(address: str, *, count: int) -> None:
    """Wait until a cluster has `count` machines, its head among them."""
    ask = (
        f"import ray, time; ray.init(address={address!r}, log_to_driver=False)\n"
        f"while sum(node['Alive'] for node in ray.nodes()) < {count}: time.sleep(0.5)"
    )
    subprocess.run([sys.executable, "-c", ask], check=True, timeout=PATIENCE_S, capture_output=True)


def _require_hiding(folder: Path) -> None:
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", str(folder)]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("cannot hide a folder from a process here")


@pytest.mark.fault(FAR)
def test_trials_on_a_machine_that_does_not_see_the_results_folder_fail_with_the_reason(
    tmp_path: Path, head: str
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    _require_hiding(results)
    far = _join(head, without=results)
    grid = ["--methods", "resnet", "--recipe", "smoke", "--param", "train.lr=0.05,0.1"]
    try:
        process = _start(results, "--address", head, *grid)
        said = _end(process)
    finally:
        _break(far)
    assert process.returncode == 1, said
    assert list(_states(results).values()) == ["failed"] * 2
    assert "does not see the results folder" in said
