"""The energy of inference, in a pass of its own, from counters that the hardware keeps.

A counter is of the whole GPU or of all processor packages: idle power and whatever else runs are in
it. Without a counter there is a reason and no number.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

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
