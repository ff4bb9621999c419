"""Memory of one call: numbers on synthetic counters, reasons without any."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.errors import Unsupported
from bench.measure.latency import resources
from bench.measure.latency.resources import (
    peak_memory_mib,
)

ALLOCATING = """
import torch
from bench.errors import Unsupported
from bench.measure.latency.resources import peak_memory_mib
net = torch.nn.Linear(1024, 1024, bias=False)  # 4 MiB of weights
call = lambda x: torch.ones(len(x), 1024, 1024).sum()  # 4 MiB per image, at its peak
call(torch.zeros(1, 1))
try:
    print(peak_memory_mib(call, torch.zeros(8, 1), net=net))
except Unsupported:
    print(None)
"""


def no_call(x_nchw: Tensor) -> None:
    del x_nchw


def test_the_peak_holds_the_weights_and_what_one_call_needs() -> None:
    done = subprocess.run([sys.executable, "-c", ALLOCATING], capture_output=True, text=True)
    if done.stdout.strip() == "None":
        pytest.skip("this system does not tell the peak of a single call")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(4 + 8 * 4, abs=3)


def test_without_the_counters_of_linux_there_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(resources, "_STATUS", tmp_path / "status")
    for reset in (resources._RESET, tmp_path / "none" / "clear_refs"):
        monkeypatch.setattr(resources, "_RESET", reset)
        with pytest.raises(Unsupported, match="does not tell"):
            peak_memory_mib(no_call, torch.zeros(2, 1), net=nn.Identity())


@pytest.fixture
def status(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the file that takes the place of the kernel's, of a process that does not grow."""
    path = tmp_path / "status"
    path.write_text("VmHWM:\t  1000 kB\nVmRSS:\t  1000 kB\n")
    monkeypatch.setattr(resources, "_STATUS", path)
    monkeypatch.setattr(resources, "_RESET", tmp_path / "clear_refs")
    return path


def test_growth_is_from_the_size_before_to_the_peak(status: Path) -> None:
    status.write_text("VmHWM:\t  9000 kB\nVmRSS:\t  1000 kB\n")

    def call(x_nchw: Tensor) -> None:
        status.write_text("VmHWM:\t  3048 kB\nVmRSS:\t  1000 kB\n")

    assert peak_memory_mib(call, torch.zeros(2, 1), net=nn.Identity()) == 2.0
    assert status.with_name("clear_refs").read_text() == "5"


@pytest.mark.usefixtures("status")
def test_memory_that_a_runtime_keeps_for_its_calls_counts() -> None:
    class Keeping:
        work_bytes = 3 * 2**20

        def __call__(self, x_nchw: Tensor) -> None: ...

    assert peak_memory_mib(Keeping(), torch.zeros(2, 1), net=nn.Identity()) == 3.0


def test_a_runtime_that_cannot_say_what_it_keeps_has_no_number() -> None:
    class Arena:
        work_bytes = None

        def __call__(self, x_nchw: Tensor) -> None: ...

    with pytest.raises(Unsupported, match="does not say"):
        peak_memory_mib(Arena(), torch.zeros(2, 1), net=nn.Identity())
