"""Freed memory is kept: the same pages serve the next tensor."""

import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys
import torch
from bench.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
torch.set_num_threads(1)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    alive = [torch.ones(1 << 22) for _ in range(6)]


for _ in range(3):
    work()
before = faults()
for _ in range(5):
    work()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_tensors_of_16_mib_stop_faulting_pages_in_anew() -> None:
    def faults(setting: str) -> int:
        command = [sys.executable, "-c", COUNT_FAULTS, setting]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("kept") < 0.1 * faults("default")
