"""How the C library hands out memory: freed memory is kept for the next tensor of that size.

By default glibc gives large tensors fresh pages and returns them at once; the kernel then clears
the same pages over and over. Owns nothing else, and does nothing where there is no glibc.
"""

from __future__ import annotations

import ctypes
import functools

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
