"""What tests of sweeps share: a listener that remembers, a planner on digits, ledgers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commands import run_options

from bench.data.load import load_dataset
from bench.engine.supervising import TrainingJob
from bench.records.record import EpochRow
from bench.records.store import RunStore
from bench.spaces import Choice, Space
from bench.sweep.ledger import Ledger, Progress
from bench.sweep.options import Objective, SweepOptions
from bench.sweep.trials import Planner, Search, proposals


@dataclass
class Remembering:
    """A listener that keeps what it is told."""

    notes: list[str] = field(default_factory=list)
    states: list[tuple[str, str]] = field(default_factory=list)

    def began(self, ledger: Ledger) -> None:
        del ledger

    def changed(self, progress: Progress) -> None:
        self.states.append((progress.run, progress.state))

    def note(self, message: str) -> None:
        self.notes.append(message)


def job_of(spec: Any, results: Path) -> TrainingJob:
    """Return the job of a run on the digits."""
    return TrainingJob(
        spec=spec,
        needs=None,
        dataset="digits",
        data_dir=Path(),
        results_dir=results,
        weights=None,
        plugins=[],
        device="cpu",
        threads=1,
    )


def small_planner(folder: Path) -> Planner:
    dataset = load_dataset("digits", data_dir=folder)
    asked = {"methods": "sgad", "backbone": "resnet8", "epochs": 3, "controls": "none"}
    return Planner(run_options({**asked, "held_out": 100}), dataset, None)


def small_ledger(
    folder: Path,
    searches: Sequence[Search],
    *,
    seeds: Sequence[int] = (0,),
    budget: float | None = 0.8,
    stopped_count: bool = False,
    listener: Remembering | None = None,
) -> Ledger:
    return Ledger(
        searches,
        small_planner(folder),
        RunStore(folder / "results"),
        name="small",
        options=SweepOptions(seeds=tuple(seeds), scheduler="asha" if stopped_count else "fifo"),
        objective=Objective(budget, 10),
        listener=listener or Remembering(),
    )


def gammas(*values: object) -> Search:
    spaces: dict[str, Space] = {"sgad.gamma": Choice(values)}
    return proposals("grid", "sgad", spaces, samples=None)


def epoch_row(number: int, accuracy: float, nflops: float) -> EpochRow:
    values = {"accuracy_held_out": accuracy, "nflops_held_out": nflops}
    return EpochRow(phase="all", epoch=number, lr=0.1, images_per_s=1, wall_s=1, values=values)
