"""Where and with what a number was measured, and whether the machine was shared meanwhile.

Every probe stands alone: what cannot be found out is None, and nothing raises. Holds no name of a
host or a user, and no path.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.machine import memory_bytes, usable_cores
from bench.records.record import Environment

_PACKAGES = ("skipbench", "torch", "torchvision", "numpy", "ptflops")
_SOURCES = ("bench", "methods", "baselines", "pyproject.toml")
_GIB = 2**30
_TIMEOUT_S = 5


def describe_environment(device: torch.device | str) -> Environment:
    """Return what is known about this process, this machine and `device`; never raises."""
    where = torch.device(device)
    probes: dict[str, Callable[[], Any]] = {
        "python": platform.python_version,
        **{package: partial(importlib.metadata.version, package) for package in _PACKAGES},
        "git_commit": _git_commit,
        "git_dirty": _git_dirty,
        "os": lambda: f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_model,
        "cores": os.cpu_count,
        "cores_usable": usable_cores,
        "memory_gib": lambda: round(memory_bytes() / _GIB, 1),
        "threads": torch.get_num_threads,
        "load_average_1min": load_average,
        "device": lambda: where.type,
        "onednn": _onednn_version,
        "dtype": lambda: str(torch.get_default_dtype()).removeprefix("torch."),
        "matmul_precision": torch.get_float32_matmul_precision,
        "tf32_convolutions": lambda: torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": lambda: torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled,
    }
    if where.type == "cuda":
        probes |= _cuda_probes(where)
    return Environment(values={name: _attempt(probe) for name, probe in probes.items()})


def load_average() -> float | None:
    """Return the load average of the last minute; None where the system has none (Windows)."""
    load: float | None = _attempt(lambda: round(os.getloadavg()[0], 2))
    return load


def _attempt(probe: Callable[[], Any]) -> Any:
    try:
        return probe()
    except Exception:
        return None


def _git(*arguments: str) -> str:
    folder = Path(__file__).parents[2]
    return _output(["git", "-C", str(folder), *arguments], GIT_OPTIONAL_LOCKS="0")


def _output(command: list[str], **variables: str) -> str:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        timeout=_TIMEOUT_S,
        env={**os.environ, **variables},
    ).stdout.strip()


def _git_commit() -> str:
    # An installed copy may lie inside another checkout: only a tracked file counts.
    _git("ls-files", "--error-unmatch", "bench/__init__.py")
    return _git("rev-parse", "HEAD")


def _git_dirty() -> bool:
    _git_commit()
    return _git("status", "--porcelain", "--", *_SOURCES) != ""


def cpu_model() -> str | None:
    """Return the processor's name as the system gives it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _onednn_version() -> str | None:
    found = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
    return found.group(1) if found else None


def _cuda_probes(device: torch.device) -> dict[str, Callable[[], Any]]:
    known, asked = partial(torch.cuda.get_device_properties, device), partial(_nvidia_smi, device)
    return {
        "gpu": lambda: known().name,
        "gpu_memory_gib": lambda: round(known().total_memory / _GIB, 1),
        "cuda": lambda: torch.version.cuda,
        "cudnn": torch.backends.cudnn.version,
        "gpu_driver": lambda: asked("gpu", "driver_version"),
        "gpu_temperature_c": lambda: asked("gpu", "temperature.gpu"),
        "gpu_clock_mhz": lambda: asked("gpu", "clocks.sm"),
        "gpu_throttle_reasons": lambda: asked("gpu", "clocks_throttle_reasons.active"),
        "gpu_processes": lambda: len(asked("compute-apps", "pid").splitlines()),
    }


def _nvidia_smi(device: torch.device, topic: str, field: str) -> str:
    # By UUID: the visible devices of a process may be numbered otherwise than the machine's.
    uuid = torch.cuda.get_device_properties(device).uuid
    query = [f"--query-{topic}={field}", "--format=csv,noheader,nounits", f"--id=GPU-{uuid}"]
    return _output(["nvidia-smi", *query])


LEAST_CPU_SHARE = 0.95
MOST_STEAL_SHARE = 0.05
_STAT = Path("/proc/stat")


class MachineTimes(NamedTuple):
    """Seconds of CPU time since boot, over all cores: spent, and taken by the host of the VM."""

    busy_s: float
    steal_s: float


def machine_times() -> MachineTimes | None:
    """Return the kernel's counters; None where it has none (macOS, Windows)."""
    try:
        fields = _STAT.read_text().partition("\n")[0].split()
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
        tick_s = 1 / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
    return MachineTimes((user + nice + system + irq + softirq) * tick_s, steal * tick_s)


@dataclass(slots=True)
class ContentionMeter:
    """What was seen over the spans that it is entered for; before the first, an idle machine.

    `busy_s` and `stolen_s` are CPU time over all cores, None once a counter was missing.
    """

    cores: int | None = field(default_factory=os.cpu_count)
    cpu_s: float = 0.0
    wall_s: float = 0.0
    busy_s: float | None = 0.0
    stolen_s: float | None = 0.0
    load: float | None = None
    _before: MachineTimes | None = None

    def __enter__(self) -> None:
        self._before = machine_times()
        self.cpu_s -= time.process_time()
        self.wall_s -= time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.wall_s += time.perf_counter()
        self.cpu_s += time.process_time()
        before, after, load = self._before, machine_times(), load_average()
        if before is None or after is None or self.busy_s is None or self.stolen_s is None:
            self.busy_s = self.stolen_s = None
        else:
            self.busy_s += after.busy_s - before.busy_s
            self.stolen_s += after.steal_s - before.steal_s
        if load is not None:
            self.load = max(load, self.load or 0.0)

    @property
    def cpu_share(self) -> float:
        """CPU time of this process / wall time."""
        return self.cpu_s / self.wall_s if self.wall_s else 1.0

    @property
    def others_cpu_share(self) -> float | None:
        """CPU time of all other processes / (wall time x cores)."""
        if self.busy_s is None or not self.wall_s or not self.cores:
            return None
        return max(0.0, self.busy_s - self.cpu_s) / (self.wall_s * self.cores)

    @property
    def steal_share(self) -> float | None:
        """What the host took of all CPU time asked for."""
        if self.busy_s is None or self.stolen_s is None or not self.wall_s:
            return None
        asked_s = self.busy_s + self.stolen_s
        return self.stolen_s / asked_s if asked_s else 0.0

    def contended(self, *, threads: int) -> bool:
        """Whether others took so much that the times may be theirs.

        With several threads the CPU share says little. The load average is of the last minute, so
        it counts only where nothing better is known.
        """
        starved = threads == 1 and self.cpu_share < LEAST_CPU_SHARE
        stolen = (self.steal_share or 0.0) > MOST_STEAL_SHARE
        others = self.others_cpu_share
        if self.cores is None or starved or stolen:
            return starved or stolen
        if others is None:
            return (self.load or 0.0) > self.cores
        return self.cores * (1 - others) < LEAST_CPU_SHARE * threads

    def values(self) -> dict[str, float | None]:
        """Return the numbers under the names they have in a record."""
        shares = {
            "cpu_time_per_wall_time": self.cpu_share,
            "others_cpu_share": self.others_cpu_share,
            "steal_share": self.steal_share,
        }
        rounded = {k: None if share is None else round(share, 3) for k, share in shares.items()}
        return {**rounded, "load_average_1min": self.load}
