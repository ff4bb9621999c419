"""What tests let processes of their own do beside them: by name, so it stands in a module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.records import index
from bench.records.record import RunRecord
from bench.records.store import RunStore
from bench.storage import write_atomically


def wall_s(record: RunRecord) -> list[float]:
    return [record.wall_s]


def write_many(target: str, letter: str) -> None:
    for _ in range(40):
        write_atomically(Path(target), letter.encode() * 50_000)


def ask_often(folder: str, answers: Any) -> None:
    index.FEWEST, index._SETTLED_S = 1, -60.0
    store = RunStore(Path(folder))
    answers.put([index.digests(store, wall_s, name="wall").of for _ in range(10)])
