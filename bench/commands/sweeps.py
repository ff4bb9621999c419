"""Sweeps on a terminal: while they run, and what was chosen by what.

Owns columns and words; the trials come from sweep documents and from the ledger of a running sweep.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.progress import TaskID
from rich.table import Table
from rich.text import Text

from bench.plain_text import counted
from bench.records.sweep import SweepRecord
from bench.report.tables.cells import folding_table, number
from bench.spaces import written
from bench.terminal import Board

if TYPE_CHECKING:
    from bench.sweep.ledger import Ledger, Progress

_STYLES = {
    "running": "cyan",
    "finished": "green",
    "recorded": "dim",
    "stopped": "yellow",
    "failed": "red",
}
_SHOWN = 30
_LONGEST_SETTING = len("side_lr_scale=10.00")


class SweepBoard(Board):
    """Listens to a sweep: a bar for each trial that runs, one for all of them, and a line for each
    that has ended."""

    def __init__(self) -> None:
        super().__init__()
        self._all = self._bars.add_task("all trials", total=None, detail="")
        self._running: dict[Progress, TaskID] = {}

    def began(self, ledger: Ledger) -> None:
        self._bars.update(self._all, total=ledger.total)
        self.note(f"{counted(ledger.total, 'trial')}; criterion: {ledger.objective.sentence()}")

    def changed(self, progress: Progress) -> None:
        if progress.state != "running":
            self.note(ended_line(progress))
            if progress in self._running:
                self._bars.remove_task(self._running.pop(progress))
            self._bars.advance(self._all)
            return
        if progress not in self._running:
            name = f"{_name(progress)} seed {progress.seed}"
            self._running[progress] = self._bars.add_task(name, total=progress.epochs, detail="")
        accuracy, cost = _measured(progress.points)
        detail = f"{accuracy} % at {cost} held out" if accuracy else ""
        done = len(progress.history)
        self._bars.update(self._running[progress], completed=done, detail=detail)


def ended_line(progress: Progress) -> str:
    """Return one line about a trial that has ended."""
    accuracy, nflops = _measured(progress.points)
    measured = f", {accuracy} % at {nflops} on held-out images" if accuracy else ""
    reason = f" ({progress.reason})" if progress.reason else ""
    return f"{_name(progress)} seed {progress.seed}: {progress.state}{measured}{reason}"


def sweep_tables(sweep: SweepRecord) -> list[RenderableType]:
    """Return the trials of each method by score, and what was chosen by what."""
    methods = dict.fromkeys(trial.method for trial in sweep.trials)
    parts: list[RenderableType] = [_method_table(sweep, method) for method in methods]
    # Of a search for a front, the front says more.
    for method in methods if sweep.options.get("search") != "pareto" else ():
        chosen = [t for t in sweep.trials if t.run in sweep.chosen.get(method, ())]
        for trial in chosen[:1]:
            options = " ".join(f"--set {name}={value}" for name, value in trial.settings.items())
            parts.append(Text(f"  chosen: --methods {method} {options}"))
    return parts + [Text(f"  {note}", "dim") for note in notes(sweep)]


def _method_table(sweep: SweepRecord, method: str) -> Table:
    mine = [trial for trial in sweep.trials if trial.method == method]
    # One column of settings: with a column each, six leave no room for their values.
    heads = ("settings", "seed", "state", "acc. %\nheld out", "nFLOPs", "score", "time")
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
