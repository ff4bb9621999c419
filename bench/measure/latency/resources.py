"""The first call of a process and the peak memory of a call, never while time is taken.

Memory is the allocator's own peak on CUDA; on a CPU what the process grew by, which means something
only in a fresh process. What cannot be measured has a reason instead.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.errors import Unsupported
from bench.measure.latency.rounds import Setup, synchronise
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
    """Return first call and memory at the only batch size, by the fields of a latency cell."""
    (size,) = setup.batch_sizes
    images_nchw = setup.images_nchw[:size].to(setup.device, memory_format=torch.channels_last)
    with using_threads(setup.threads), torch.inference_mode():
        run = runtime.prepare(net, setup.images_nchw[:2].to(setup.device))
        synchronise(setup.device)
        started = time.perf_counter_ns()
        run(images_nchw[:1])
        synchronise(setup.device)
        first_ms = (time.perf_counter_ns() - started) / 1e6
        # Only where single images are the task.
        found: dict[str, float | str | None] = {"first_ms": first_ms if size == 1 else None}
        try:
            memory_mib = peak_memory_mib(run, images_nchw, net=net)
            return found | {"memory_mib": memory_mib, "memory_reason": ""}
        except Unsupported as error:
            return found | {"memory_reason": error.message}


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


def _allocated_bytes(call: Callable[[Tensor], object], x_nchw: Tensor) -> int:
    torch.cuda.synchronize(x_nchw.device)
    before = torch.cuda.memory_allocated(x_nchw.device)
    torch.cuda.reset_peak_memory_stats(x_nchw.device)
    call(x_nchw)
    torch.cuda.synchronize(x_nchw.device)
    return torch.cuda.max_memory_allocated(x_nchw.device) - before


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


def _kib(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{_STATUS} has no {name}")
    return int(found.group(1))
