"""Where results, data and caches lie, by option or environment. Imports nothing heavy."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


def from_home(text: str) -> str:
    """Return a path with a ~ at its beginning replaced by the home folder, if it is known.

    A shell does so only where a word begins: not behind --out=, in a variable or in a file.
    """
    return os.path.expanduser(text)


def default_results_dir() -> Path:
    """Return $BENCH_RESULTS, or ./results."""
    return Path(from_home(os.environ.get("BENCH_RESULTS") or "results"))


def default_data_dir() -> Path:
    """Return $BENCH_DATA, or ./data."""
    return Path(from_home(os.environ.get("BENCH_DATA") or "data"))


def cache_dir() -> Path:
    """Return where what can be made anew is kept for this user: $XDG_CACHE_HOME/skipbench, or
    ~/.cache/skipbench.

    Raises:
        RuntimeError: there is no home folder.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(from_home(given)) if given else Path.home() / ".cache") / "skipbench"


@dataclass(frozen=True, slots=True)
class Folders:
    """Where results and data lie."""

    results: Path = field(default_factory=default_results_dir)
    data: Path = field(default_factory=default_data_dir)
