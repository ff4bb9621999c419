"""Peak memory and energy of inference, each in a pass of its own: never while time is taken.

Memory is the allocator's own peak on CUDA; on a CPU what the process grew by, which means something
only in a fresh process. Energy is that of the whole GPU or of all processor packages, with idle
power and whatever else runs. What cannot be measured has a reason instead.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_MIB = 2**20
_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_PEAK_TO_NOW = "5"


class Reading(NamedTuple):
    """A number, or the reason why there is none."""

    value: float | None
    reason: str = ""


def peak_memory_mib(call: Callable[[Tensor], object], x_nchw: Tensor, *, net: nn.Module) -> Reading:
    """Return the weights of `net` and what one call needs beyond them at its peak.

    Does one call on the first image before, so that lazy initialisation is over. What `call` keeps
    for its calls (`work_bytes`) and no call allocates is added. The input is not counted.
    """
    kept = getattr(call, "work_bytes", 0)
    if kept is None:
        return Reading(None, "the runtime does not say what memory it keeps between calls")
    call(x_nchw[:1])
    weights = kept + sum(t.numel() * t.element_size() for t in (*net.parameters(), *net.buffers()))
    if x_nchw.device.type == "cuda":
        grown: int | None = _allocated_bytes(call, x_nchw)
    else:
        grown = _grown_bytes(call, x_nchw)
    if grown is None:
        return Reading(None, "this system does not tell the peak of a single call")
    return Reading((weights + grown) / _MIB)


def _allocated_bytes(call: Callable[[Tensor], object], x_nchw: Tensor) -> int:
    torch.cuda.synchronize(x_nchw.device)
    before = torch.cuda.memory_allocated(x_nchw.device)
    torch.cuda.reset_peak_memory_stats(x_nchw.device)
    call(x_nchw)
    torch.cuda.synchronize(x_nchw.device)
    return torch.cuda.max_memory_allocated(x_nchw.device) - before


def _grown_bytes(call: Callable[[Tensor], object], x_nchw: Tensor) -> int | None:
    """Return by how much the resident set grew at its peak; None without Linux's counters."""
    # What the C library keeps of earlier calls would be used again and not seen.
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        _RESET.write_text(_PEAK_TO_NOW)
        before = _kib("VmRSS")
        call(x_nchw)
        return max(0, _kib("VmHWM") - before) * 1024
    except (OSError, ValueError):
        return None


def _kib(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{_STATUS} has no {name}")
    return int(found.group(1))


Counter = Callable[[], float]
_POWERCAP = Path("/sys/class/powercap")


def energy_mj_per_image(
    call: Callable[[], int], counter: Counter, *, seconds: float, clock: Counter = time.perf_counter
) -> float:
    """Return the millijoules per image of calls that go on for `seconds`.

    `call` runs to its end and returns its number of images; `counter` is in joules and only rises.
    """
    images, begin_s, begin_j = 0, clock(), counter()
    while clock() - begin_s < seconds:
        images += call()
    return (counter() - begin_j) / images * 1e3


def counter_of(device: torch.device) -> tuple[Counter | None, str]:
    """Return the energy counter of `device` in joules, or None and the reason."""
    return _nvml_counter(device) if device.type == "cuda" else rapl_counter(_POWERCAP)


def rapl_counter(powercap: Path) -> tuple[Counter | None, str]:
    """Return the sum over the processor packages under `powercap`, which never wraps around."""
    # Packages have one colon, intel-rapl:0; their parts, with two, are counted in them.
    domains = [path for path in sorted(powercap.glob("intel-rapl:*")) if path.name.count(":") == 1]
    try:
        counters = [_Package(domain) for domain in domains]
    except (OSError, ValueError) as error:
        return None, f"the processor's energy counter cannot be read: {type(error).__name__}"
    if not counters:
        return None, "this system has no energy counter of the processor"
    return lambda: sum(counter.joules() for counter in counters), ""


class _Package:
    """One counter, in microjoules up to a limit at which it begins again."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self._limit_uj = int((folder / "max_energy_range_uj").read_text())
        self._last_uj, self._sum_uj = self._read_uj(), 0

    def joules(self) -> float:
        now_uj = self._read_uj()
        self._sum_uj += now_uj - self._last_uj + (self._limit_uj if now_uj < self._last_uj else 0)
        self._last_uj = now_uj
        return self._sum_uj / 1e6

    def _read_uj(self) -> int:
        return int(self._file.read_text())


def _nvml_counter(device: torch.device) -> tuple[Counter | None, str]:
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None, "pynvml is not installed (pip install nvidia-ml-py)"
    try:
        nvml.nvmlInit()
        # By UUID: the visible devices of a process may be numbered otherwise than the machine's.
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception as error:
        with suppress(Exception):
            nvml.nvmlShutdown()
        return None, f"the GPU's energy counter cannot be read: {error}"
    return lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3, ""
