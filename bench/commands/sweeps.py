"""Sweeps on a terminal: while they run, what was chosen by what, and what each setting did.

Owns columns and words; the trials come from sweep documents and from the ledger of a running sweep.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
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
_OTHER_LINES = 8
_LONGEST_SETTING = len("side_lr_scale=10.00")


class SweepBoard:
    """Listens to a sweep; use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ledger: Ledger | None = None
        self._begun = time.monotonic()
        self._live = Live(
            console=console, get_renderable=self._draw, refresh_per_second=2, transient=True
        )

    def __enter__(self) -> SweepBoard:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def began(self, ledger: Ledger) -> None:
        self._ledger, self._begun = ledger, time.monotonic()
        self.note(f"{counted(ledger.total, 'trial')}; criterion: {ledger.objective.sentence()}")

    def changed(self, progress: Progress) -> None:
        if not self._console.is_terminal and progress.state != "running":
            self._console.print(escape(ended_line(progress)), highlight=False, soft_wrap=True)

    def note(self, message: str) -> None:
        self._console.print(f"[dim]{escape(message)}[/]", highlight=False, soft_wrap=True)

    def _draw(self) -> RenderableType:
        """Return all trials that run, the newest that ended, the rest in numbers, the time left."""
        if self._ledger is None:
            return Text("Starting ...", "dim")
        ledger, now = self._ledger, time.monotonic()
        # A copy: the driver adds trials while this is drawn from another thread.
        progress = list(ledger.progress)
        running = [p for p in progress if p.state == "running" and p.begun is not None]
        ended = [p for p in progress if p.state != "running"]
        shown = max(1, max(4, self._console.height - _OTHER_LINES) - len(running))
        table = _trials_table("trial", "epoch", runtime=ledger.objective.runtime)
        for item in (*ended[-shown:], *running):
            spent_s = item.wall_s or (0.0 if item.begun is None else now - item.begun)
            epochs = f"{len(item.history)}/{item.epochs}"
            measured = (*_measured(item.points), number(item.score, ".4f"), _duration(spent_s))
            state = Text(item.state, _STYLES[item.state])
            table.add_row(Text(_name(item)), str(item.seed), state, epochs, *measured)
        counts = _counts(progress, total=ledger.total, elapsed_s=now - self._begun)
        return Group(table, Text(counts, "dim"))


def ended_line(progress: Progress) -> str:
    """Return one line about a trial that has ended, for terminals that cannot be redrawn."""
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


def _trials_table(name: str, *more: str, runtime: str, title: str = "") -> Table:
    # One column of settings: with a column each, six leave no room for their values.
    cost = f"{runtime}\n/ dense" if runtime else "nFLOPs"
    heads = (name, "seed", "state", *more, "acc. %\nheld out", cost, "score", "time")
    table = folding_table(*heads, title=title)
    table.columns[0].min_width = _LONGEST_SETTING
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    return table


def _method_table(sweep: SweepRecord, method: str) -> Table:
    mine = [trial for trial in sweep.trials if trial.method == method]
    table = _trials_table("settings", runtime=sweep.runtime, title=method)
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


def _counts(progress: Sequence[Progress], *, total: int, elapsed_s: float) -> str:
    counts = Counter[str](p.state for p in progress if p.state != "running" or p.begun is not None)
    waiting = total - sum(counts.values())
    parts = [f"{counts[state]} {state}" for state in _STYLES if counts[state]]
    parts += [f"{waiting} waiting"] if waiting > 0 else []
    new = [p for p in progress if p.begun is not None]
    done = sum(p.share for p in new)
    left = total - (len(progress) - len(new)) - done
    if done > 0 and left > 0:
        parts.append(f"{_duration(elapsed_s * left / done)} left")
    return f"{', '.join(parts)}; {_duration(elapsed_s)} so far"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
