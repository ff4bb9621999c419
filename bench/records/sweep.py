"""What a sweep asked for and what became of it: one JSON document under <results>/sweeps.

The runs themselves have their own records; this one says which belong together, and by which
criterion one was chosen. Owns the schema and where the documents lie.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from bench.config import Frozen
from bench.errors import RecordError
from bench.records.document import LARGEST_BYTES
from bench.records.store import Problem
from bench.storage import make_folder, read_limited, write_atomically

SWEEPS_FOLDER = "sweeps"
SWEEP_VERSION = 1
TrialStatus = Literal["running", "finished", "recorded", "stopped", "failed"]


class TrialRow(Frozen):
    """One trial: settings that were tried ("sgad.gamma" -> 0.3), its run, and what it reached.

    `points` are (nFLOPs, accuracy) on held-out images; `score` is None where there is none, `run`
    is "" where the settings were refused.
    """

    method: str
    settings: dict[str, Any]
    seed: int
    run: str
    status: TrialStatus
    reason: str = ""
    points: tuple[tuple[float, float], ...] = ()
    score: float | None = None
    wall_s: float = 0.0


class SweepRecord(Frozen):
    """A sweep. `options` are what it was told, `criterion` is what `chosen` was chosen by;
    `chosen` maps a method to the runs, one for each seed, of the settings with the highest mean
    score, or of all settings on the front. `corner` is where the hypervolume is measured from,
    (nFLOPs, accuracy). `ended` is False while it runs and where it was interrupted.
    """

    version: int = SWEEP_VERSION
    name: str
    options: dict[str, Any]
    criterion: str
    held_out: int
    runtime: Literal[""] = ""  # of development versions, which could also search by time
    corner: tuple[float, float]
    created: str
    ended: bool = False
    trials: tuple[TrialRow, ...] = ()
    chosen: dict[str, tuple[str, ...]] = Field(default_factory=dict)


def save_sweep(sweep: SweepRecord, results_dir: Path) -> Path:
    """Write the document of a sweep; return the file. A StorageError says that it cannot be."""
    path = make_folder(results_dir / SWEEPS_FOLDER) / f"{sweep.name}.json"
    write_atomically(path, sweep.model_dump_json(indent=1).encode() + b"\n")
    return path


def load_sweep(results_dir: Path, name: str) -> SweepRecord | None:
    """Return the sweep called `name`; None if there is none.

    Raises:
        RecordError: its document is damaged.
    """
    path = results_dir / SWEEPS_FOLDER / f"{name}.json"
    try:
        return SweepRecord.model_validate_json(read_limited(path, limit_bytes=LARGEST_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise RecordError(
            f"The sweep {path} cannot be read: {type(error).__name__}.",
            hint="Its runs have records of their own: delete the file and run the sweep again.",
        ) from None


def load_sweeps(results_dir: Path) -> tuple[list[SweepRecord], list[Problem]]:
    """Return all sweeps by name, and those that cannot be read."""
    found: list[SweepRecord] = []
    problems: list[Problem] = []
    for path in sorted((results_dir / SWEEPS_FOLDER).glob("*.json")):
        try:
            sweep = load_sweep(results_dir, path.stem)
        except RecordError as error:
            problems.append(Problem(path.stem, error.message))
            continue
        if sweep is not None:
            found.append(sweep)
    return found, problems
