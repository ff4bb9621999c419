"""Freed memory is kept: training steps stop having the kernel clear the same pages again."""

import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys
import torch
from bench.machine import keep_freed_memory
from bench.networks.trunk import Backbone

if sys.argv[1] == "kept":
    assert keep_freed_memory()
torch.set_num_threads(1)
net = Backbone("resnet8", 10, (3, 32, 32)).build().train()
x = torch.randn(64, 3, 32, 32).contiguous(memory_format=torch.channels_last)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(14):
    if step == 7:
        before = faults()
    net(x).square().sum().backward()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_training_steps_stop_faulting_their_pages_in_anew() -> None:
    def faults(setting: str) -> int:
        command = [sys.executable, "-c", COUNT_FAULTS, setting]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("kept") < 0.5 * faults("default")
