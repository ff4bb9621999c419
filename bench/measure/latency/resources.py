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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.errors import Unsupported
from bench.measure.latency.rounds import Setup, queries, synchronise
from bench.measure.modes import using_threads
from bench.networks.unit import DynamicNet
from bench.runtimes.contract import Runtime

_MIB = 2**20
_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_PEAK_TO_NOW = "5"


def measure_resources(
    net: DynamicNet, runtime: Runtime, setup: Setup
) -> dict[str, float | str | None]:
    """Return first call, memory and energy at the only batch size, by the fields of a cell."""
    images_nchw, device = setup.images_nchw.to(setup.device), setup.device
    (size,) = setup.batch_sizes
    order = np.arange(len(images_nchw), dtype=np.int32)
    inputs = queries(images_nchw, order, batch_size=size)
    with using_threads(setup.threads), torch.inference_mode():
        run = runtime.prepare(net, images_nchw[:2])

        def one_batch() -> int:
            x_nchw, image_b = next(inputs)
            run(x_nchw)
            synchronise(device)
            return len(image_b)

        synchronise(device)
        started = time.perf_counter_ns()
        run(images_nchw[:1])
        synchronise(device)
        first_ms = (time.perf_counter_ns() - started) / 1e6
        memory = partial(peak_memory_mib, run, next(inputs).x_nchw, net=net)
        seconds = setup.profile.energy_s
        return {
            "first_ms": first_ms if size == 1 else None,  # only where single images are the task
            **_attempt("memory_mib", "memory_reason", memory),
            **_attempt(
                "energy_mj_per_image",
                "energy_reason",
                lambda: energy_mj_per_image(one_batch, counter_of(device), seconds=seconds),
            ),
        }


def _attempt(
    field: str, reason: str, measure: Callable[[], float]
) -> dict[str, float | str | None]:
    try:
        return {field: measure(), reason: ""}
    except Unsupported as error:
        return {field: None, reason: error.message}


def peak_memory_mib(call: Callable[[Tensor], object], x_nchw: Tensor, *, net: nn.Module) -> float:
    """Return the weights of `net` and what one call needs beyond them at its peak.

    Not the first call: that initialises what is lazy. What `call` keeps for its calls
    (`work_bytes`) and no call allocates is added. The input is not counted.

    Raises:
        Unsupported: the runtime or this system does not tell.
    """
    kept = getattr(call, "work_bytes", 0)
    if kept is None:
        raise Unsupported("the runtime does not say what memory it keeps between calls")
    weights = sum(t.numel() * t.element_size() for t in (*net.parameters(), *net.buffers()))
    on_gpu = x_nchw.device.type == "cuda"
    grown = _allocated_bytes(call, x_nchw) if on_gpu else _grown_bytes(call, x_nchw)
    return float(kept + weights + grown) / _MIB


def _grown_bytes(call: Callable[[Tensor], object], x_nchw: Tensor) -> int:
    """Return by how much the resident set grew at its peak, by Linux's counters."""
    # What the C library keeps of earlier calls would be used again and not seen.
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        _RESET.write_text(_PEAK_TO_NOW)
        before = _kib("VmRSS")
        call(x_nchw)
        return max(0, _kib("VmHWM") - before) * 1024
    except (OSError, ValueError) as error:
        raise Unsupported("this system does not tell the peak of a single call") from error


def _allocated_bytes(call: Callable[[Tensor], object], x_nchw: Tensor) -> int:
    torch.cuda.synchronize(x_nchw.device)
    before = torch.cuda.memory_allocated(x_nchw.device)
    torch.cuda.reset_peak_memory_stats(x_nchw.device)
    call(x_nchw)
    torch.cuda.synchronize(x_nchw.device)
    return torch.cuda.max_memory_allocated(x_nchw.device) - before


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


def counter_of(device: torch.device) -> Counter:
    """Return the energy counter of `device` in joules.

    Raises:
        Unsupported: there is none that can be read.
    """
    return _nvml_counter(device) if device.type == "cuda" else rapl_counter(_POWERCAP)


def rapl_counter(powercap: Path) -> Counter:
    """Return the sum over the processor packages under `powercap`, which never wraps around."""
    # Packages have one colon, intel-rapl:0; their parts, with two, are counted in them.
    domains = [path for path in sorted(powercap.glob("intel-rapl:*")) if path.name.count(":") == 1]
    try:
        counters = [_Package(domain) for domain in domains]
    except (OSError, ValueError) as error:
        said = f"the processor's energy counter cannot be read: {type(error).__name__}"
        raise Unsupported(said) from error
    if not counters:
        raise Unsupported("this system has no energy counter of the processor")
    return lambda: sum(counter.joules() for counter in counters)


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


def _nvml_counter(device: torch.device) -> Counter:
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError as error:
        raise Unsupported("pynvml is not installed (pip install nvidia-ml-py)") from error
    try:
        nvml.nvmlInit()
        # By UUID: the visible devices of a process may be numbered otherwise than the machine's.
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception as error:
        raise Unsupported(f"the GPU's energy counter cannot be read: {error}") from error
    return lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
