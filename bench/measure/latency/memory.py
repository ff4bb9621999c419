"""The peak memory of one inference pass, in a pass of its own: never while time is taken.

On CUDA the allocator's own peak; on a CPU what the process grew by, which means something only in
a fresh process. What cannot be measured has a reason instead.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

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
