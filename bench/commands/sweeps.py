"""Sweeps on a terminal: while they run, what was chosen by what, and what each setting did.

Owns columns and words; the trials come from sweep documents and from the ledger of a running sweep.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from bench.analysis.statistics import rank_correlation
from bench.plain_text import counted
from bench.records.sweep import SweepRecord, TrialRow
from bench.report.tables.cells import folding_table, number
from bench.spaces import written

if TYPE_CHECKING:
    from bench.sweep.ledger import Ledger, Progress

_STYLES = {
    "running": "cyan",
    "finished": "green",
    "recorded": "dim",
    "stopped": "yellow",
    "failed": "red",
}
_WELL = frozenset({"finished", "recorded"})
_FEW_TRIALS = 3
_SHOWN = 30
_LONGEST_SETTING = len("side_lr_scale=10.00")


class SweepBoard:
    """Listens to a sweep: a bar for each trial that runs, one for all of them, and a line for each
    that has ended; use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[measured]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            # Trials side by side begin and end: the time left of all of them is an average.
            speed_estimate_period=3600,
        )
        self._all: TaskID | None = None
        self._running: dict[Progress, TaskID] = {}

    def __enter__(self) -> SweepBoard:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def began(self, ledger: Ledger) -> None:
        self._all = self._bars.add_task("all trials", total=ledger.total, measured="")
        self.note(f"{counted(ledger.total, 'trial')}; criterion: {ledger.objective.sentence()}")

    def changed(self, progress: Progress) -> None:
        if progress.state != "running":
            self._console.print(escape(ended_line(progress)), highlight=False, soft_wrap=True)
            if progress in self._running:
                self._bars.remove_task(self._running.pop(progress))
            if self._all is not None:
                self._bars.advance(self._all)
            return
        if progress not in self._running:
            name = f"{_name(progress)} seed {progress.seed}"
            task = self._bars.add_task(name, total=progress.epochs, measured="")
            self._running[progress] = task
        accuracy, cost = _measured(progress.points)
        measured = f"{accuracy} % at {cost} held out" if accuracy else ""
        done = len(progress.history)
        self._bars.update(self._running[progress], completed=done, measured=measured)

    def note(self, message: str) -> None:
        self._console.print(f"[dim]{escape(message)}[/]", highlight=False, soft_wrap=True)


def ended_line(progress: Progress) -> str:
    """Return one line about a trial that has ended."""
    accuracy, nflops = _measured(progress.points)
    measured = f", {accuracy} % at {nflops} on held-out images" if accuracy else ""
    reason = f" ({progress.reason})" if progress.reason else ""
    return f"{_name(progress)} seed {progress.seed}: {progress.state}{measured}{reason}"


def sweep_tables(sweep: SweepRecord) -> list[RenderableType]:
    """Return the trials of each method by score, what was chosen by what, what settings did."""
    methods = dict.fromkeys(trial.method for trial in sweep.trials)
    parts: list[RenderableType] = [_method_table(sweep, method) for method in methods]
    # Of a search for a front, the front says more.
    for method in methods if sweep.options.get("search") != "pareto" else ():
        chosen = [t for t in sweep.trials if t.run in sweep.chosen.get(method, ())]
        for trial in chosen[:1]:
            options = " ".join(f"--set {name}={value}" for name, value in trial.settings.items())
            parts.append(Text(f"  chosen: --methods {method} {options}"))
    parts += [Text(f"  {note}", "dim") for note in notes(sweep)]
    if found := effects(sweep.trials):
        heads = ("method", "setting", "trials", "accuracy", "cost")
        table = folding_table(*heads, title="what each setting did")
        for one in found:
            sides = (number(side, "+.2f", none="-") for side in (one.accuracy, one.nflops))
            table.add_row(one.method, one.setting, str(one.trials), *sides)
        note = "  Spearman's rank correlation over the trials of a method"
        parts += [table, Text(note, "dim")]
    return parts


def _method_table(sweep: SweepRecord, method: str) -> Table:
    mine = [trial for trial in sweep.trials if trial.method == method]
    # One column of settings: with a column each, six leave no room for their values.
    cost = f"{sweep.runtime}\n/ dense" if sweep.runtime else "nFLOPs"
    heads = ("settings", "seed", "state", "acc. %\nheld out", cost, "score", "time")
    table = folding_table(*heads, title=method)
    table.columns[0].min_width = _LONGEST_SETTING
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    mine.sort(key=lambda t: math.inf if t.score is None else -t.score)
    for trial in mine[:_SHOWN]:
        settings = [f"{k.removeprefix(f'{method}.')}={v}" for k, v in trial.settings.items()]
        mark = "* " if trial.run in sweep.chosen.get(method, ()) else ""
        table.add_row(
            Text(" ".join(settings)),
            f"{mark}{trial.seed}",
            Text(trial.status, _STYLES[trial.status]),
            *_measured(trial.points),
            number(trial.score, ".4f"),
            _duration(trial.wall_s),
        )
    return table


def notes(sweep: SweepRecord) -> list[str]:
    """Return how many tries there were, and who chose what by what."""
    tries = Counter(t.method for t in sweep.trials)
    found = [
        f"{method}: the best {_SHOWN} of {count:,} trials; the document of the sweep has all"
        for method, count in tries.items()
        if count > _SHOWN
    ]
    found += [f"* chosen by the {sweep.criterion} ({sweep.held_out:,} images; no test image)"]
    found += [
        f"{written(t.settings)} seed {t.seed} {t.status}: {t.reason}"
        for t in sweep.trials
        if t.reason and t.status != "stopped"
    ]
    if sweep.options.get("pretrained"):
        found.append(
            f"all trials start from {sweep.options['pretrained']}: if that was trained on the "
            "images held out here, accuracy on them is too high"
        )
    stopped = sum(t.status == "stopped" for t in sweep.trials)
    if stopped:
        found.append(f"{stopped} stopped early by the scheduler: shown as they were then")
    for method in tries:
        if method not in sweep.chosen:
            found.append(f"{method}: nothing chosen: no settings ended well within the budget")
    if len(tries) > 1:
        listed = ", ".join(f"{method} {count}" for method, count in tries.items())
        equal = "the same number of trials each" if len(set(tries.values())) == 1 else "UNEQUAL"
        found.append(f"trials: {listed} ({equal})")
    if not sweep.ended:
        found.append("interrupted: the same command continues it")
    return found


class Effect(NamedTuple):
    """What a setting of a method did: Spearman's correlation with accuracy and nFLOPs on held-out
    images over `trials` trials; None where one side never changes."""

    method: str
    setting: str
    trials: int
    accuracy: float | None
    nflops: float | None


def effects(trials: Sequence[TrialRow]) -> list[Effect]:
    """Return the effect of every setting with numbers that took at least two values."""
    found: list[Effect] = []
    for method in dict.fromkeys(trial.method for trial in trials):
        mine = [t for t in trials if t.method == method and t.status in _WELL and t.points]
        cheapest = [min(trial.points) for trial in mine]
        for name in dict.fromkeys(name for trial in mine for name in trial.settings):
            values = [trial.settings.get(name) for trial in mine]
            numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
            if len(mine) < _FEW_TRIALS or not numeric or len(set(values)) < 2:
                continue
            nflops, accuracy = (
                rank_correlation(np.array(values, dtype=float), np.array(side))
                for side in zip(*cheapest, strict=True)
            )
            setting = name.removeprefix(f"{method}.")
            found.append(Effect(method, setting, len(mine), accuracy, nflops))
    return found


def _name(progress: Progress) -> str:
    method, settings = progress.tried.method, progress.tried.settings
    short = {name.removeprefix(f"{method}."): value for name, value in settings.items()}
    return f"{method} {written(short)}".strip()


def _measured(points: Sequence[tuple[float, float]]) -> tuple[str, str]:
    """Return accuracy in % and nFLOPs; of several points, of the cheapest and most expensive."""
    if not points:
        return "", ""
    ordered = sorted({min(points), max(points)})
    accuracies = "-".join(f"{100 * accuracy:.2f}" for _, accuracy in ordered)
    return accuracies, "-".join(f"{nflops:.3f}" for nflops, _ in ordered)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
