"""Memory of a CIFAR-10 run and the start-up time of the command line, in processes of their own."""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

pytestmark = pytest.mark.perf

BENCH = [sys.executable, "-c", "from bench.cli import main; main()"]
AIM_PEAK_GIB, AIM_HELP_S = 3.0, 0.5
_TRAINED_S = 45.0


def _peak_gib(process: subprocess.Popen[bytes]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def test_a_cifar10_run_stays_under_three_gib(data_dir: Path, tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("reads /proc")
    arguments = ["run", "--methods", "sgad", "--dataset", "cifar10", "--latency", "off"]
    environment = {**os.environ, "BENCH_RESULTS": str(tmp_path), "BENCH_DATA": str(data_dir)}
    with subprocess.Popen([*BENCH, *arguments], env=environment, stderr=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + _TRAINED_S
        while time.monotonic() < deadline:
            time.sleep(1)
        training = _peak_gib(run)
        run.kill()
    with subprocess.Popen(
        [*BENCH, *arguments, "--epochs", "0"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as run:
        evaluation = 0.0
        while run.poll() is None:
            try:
                evaluation = max(evaluation, _peak_gib(run))
            except (OSError, StopIteration):
                break
            time.sleep(0.05)
        assert run.wait() == 0
    print(f"\npeak memory: training {training:.2f} GiB, evaluation {evaluation:.2f} GiB; aim 3")
    assert max(training, evaluation) < AIM_PEAK_GIB


def test_help_answers_at_once() -> None:
    seconds: list[float] = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([*BENCH, "--help"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    print(f"\nbench --help: median {median(seconds):.2f} s, slowest {max(seconds):.2f} s; aim 0.5")
    assert median(seconds) < AIM_HELP_S
