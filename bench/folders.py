"""Where results, data and caches lie, by option or environment. Imports nothing heavy."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


def default_results_dir() -> Path:
    """Return $BENCH_RESULTS, or ./results."""
    return Path(os.environ.get("BENCH_RESULTS") or "results")


def default_data_dir() -> Path:
    """Return $BENCH_DATA, or ./data."""
    return Path(os.environ.get("BENCH_DATA") or "data")


def cache_dir() -> Path:
    """Return where what can be made anew is kept for this user: $XDG_CACHE_HOME/skipbench, or
    ~/.cache/skipbench.

    Raises:
        RuntimeError: nobody knows a home folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skipbench"


@dataclass(frozen=True, slots=True)
class Folders:
    """Where results and data lie."""

    results: Path = field(default_factory=default_results_dir)
    data: Path = field(default_factory=default_data_dir)
