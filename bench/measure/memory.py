"""Peak memory of this process and of the accelerator; measured in a pass of its own."""

from __future__ import annotations

import sys

import torch


def peak_rss_bytes() -> int | None:
    """Return the largest resident memory of this process so far; None where unknown (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_device_bytes(device: torch.device) -> None:
    """Start a new peak of the memory torch has allocated on a CUDA device; elsewhere nothing."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_device_bytes(device: torch.device) -> int | None:
    """Return the peak of allocated memory since the last reset; None but for CUDA."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
