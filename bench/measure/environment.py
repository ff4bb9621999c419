"""Where and with what a number was measured: versions, commit, hardware, load, numerics.

Every probe stands alone: what cannot be found out is None, and nothing raises. Holds no name of a
host or a user, and no path.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
        **{package: _version_probe(package) for package in _PACKAGES},
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


def _version_probe(package: str) -> Callable[[], str]:
    return lambda: importlib.metadata.version(package)


def _git(*arguments: str) -> str:
    folder = Path(__file__).parents[2]
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=_TIMEOUT_S,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
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
    for line in _lines_of("/proc/cpuinfo"):
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or None


def _lines_of(path: str) -> list[str]:
    lines: list[str] | None = _attempt(lambda: Path(path).read_text().splitlines())
    return lines or []


def _onednn_version() -> str | None:
    found = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
    return found.group(1) if found else None


def _cuda_probes(device: torch.device) -> dict[str, Callable[[], Any]]:
    return {
        "gpu": lambda: torch.cuda.get_device_properties(device).name,
        "gpu_memory_gib": lambda: round(
            torch.cuda.get_device_properties(device).total_memory / _GIB, 1
        ),
        "cuda": lambda: torch.version.cuda,
        "cudnn": torch.backends.cudnn.version,
        "gpu_driver": lambda: _nvidia_smi(device, "gpu", "driver_version"),
        "gpu_temperature_c": lambda: _nvidia_smi(device, "gpu", "temperature.gpu"),
        "gpu_clock_mhz": lambda: _nvidia_smi(device, "gpu", "clocks.sm"),
        "gpu_throttle_reasons": lambda: _nvidia_smi(
            device, "gpu", "clocks_throttle_reasons.active"
        ),
        "gpu_processes": lambda: len(_nvidia_smi(device, "compute-apps", "pid").splitlines()),
    }


def _nvidia_smi(device: torch.device, topic: str, field: str) -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        raise FileNotFoundError("nvidia-smi")
    # By UUID: the visible devices of a process may be numbered otherwise than the machine's.
    uuid = torch.cuda.get_device_properties(device).uuid
    return subprocess.run(
        [program, f"--query-{topic}={field}", "--format=csv,noheader,nounits", f"--id=GPU-{uuid}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=_TIMEOUT_S,
    ).stdout.strip()
