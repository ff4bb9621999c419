"""Where results and data lie, as given or as the environment says. Imports nothing heavy."""

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


@dataclass(frozen=True, slots=True)
class Folders:
    """Where results and data lie."""

    results: Path = field(default_factory=default_results_dir)
    data: Path = field(default_factory=default_data_dir)
