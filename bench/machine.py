"""What of the machine this process may use: cores and memory, and how the C library hands it out.

The container's limits are considered.
"""

from __future__ import annotations

import ctypes
import functools
import os
from contextlib import suppress
from pathlib import Path


def usable_cores() -> float:
    """Return the cores this process may use: affinity and the container's quota considered."""
    cores = float(os.cpu_count() or 1)
    with suppress(AttributeError, OSError):  # not every system can tell
        cores = float(len(os.sched_getaffinity(0)))
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, int(quota) / int(period))  # "max" is no number
    return cores


def memory_bytes() -> int:
    """Return how much memory there is, or the container's limit where that is less."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return physical


def available_memory_bytes() -> int:
    """Return how much memory new processes can have before the system is out of it."""
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = [int(line.split()[1]) for line in lines if "MemAvailable" in line]
        return min([memory_bytes(), *(1024 * kib for kib in free)])
    return memory_bytes()


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt's parameters in malloc.h
_LARGEST_MMAP_THRESHOLD = 32 << 20  # more is refused
_KEPT = 1 << 30


@functools.cache
def keep_freed_memory() -> bool:
    """Set glibc's allocator for this process, once; return whether it has taken the setting."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    thresholds = ((_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD), (_TRIM_THRESHOLD, _KEPT))
    return all([mallopt(name, value) == 1 for name, value in thresholds])
