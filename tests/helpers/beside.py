"""What tests let processes of their own do beside them: by name, so it stands in a module."""

from __future__ import annotations

from pathlib import Path

from bench.storage import write_atomically


def write_many(target: str, letter: str) -> None:
    for _ in range(40):
        write_atomically(Path(target), letter.encode() * 50_000)
