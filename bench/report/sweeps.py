"""Sweeps as tables: while they run, what was chosen by what, and what each setting did.

Owns columns and words; the trials come from sweep documents and from the ledger of a running sweep.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench.analysis.statistics import rank_correlation
from bench.records.sweep import SweepRecord, TrialRow
from bench.spaces import written

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from bench.sweep.ledger import Progress

_STYLES = {
    "running": "cyan",
    "finished": "green",
    "recorded": "dim",
    "stopped": "yellow",
    "failed": "red",
}
_WELL = frozenset({"finished", "recorded"})
_FEW_TRIALS = 3


def live_table(
    progress: Sequence[Progress], *, total: int, elapsed_s: float, rows: int
) -> RenderableType:
    """Return what a running sweep looks like: all that run, the newest that ended, and the rest in
    numbers with the time left."""
    from rich.console import Group
    from rich.text import Text

    running = [p for p in progress if p.state == "running" and p.begun is not None]
    ended = [p for p in progress if p.state != "running"]
    shown = [*ended[len(ended) - max(1, rows - len(running)) :], *running]
    table = _trial_table()
    for item in shown:
        now = time.monotonic()
        spent = item.wall_s or (0.0 if item.begun is None else now - item.begun)
        table.add_row(*_cells(_Line.of_progress(item), spent_s=spent))
    return Group(table, Text(_counts(progress, total=total, elapsed_s=elapsed_s), "dim"))


def ended_line(progress: Progress) -> str:
    """Return one line about a trial that has ended, for terminals that cannot be redrawn."""
    line = _Line.of_progress(progress)
    what = f"{line.name} seed {line.seed}: {line.state}"
    measured = f", {line.accuracy} % at {line.nflops} on held-out images" if line.accuracy else ""
    return what + measured + (f" ({line.reason})" if line.reason else "")


def sweep_tables(sweep: SweepRecord) -> list[RenderableType]:
    """Return the trials by score, what was chosen by which criterion, and what settings did."""
    from rich.text import Text

    table = _trial_table()
    ranked = sorted(sweep.trials, key=lambda t: -(t.score if t.score is not None else -1e9))
    chosen = {run for runs in sweep.chosen.values() for run in runs}
    for trial in ranked:
        line = _Line.of_row(trial)
        mark = " *" if trial.run in chosen else ""
        table.add_row(*_cells(line._replace(name=line.name + mark), spent_s=trial.wall_s))
    parts: list[RenderableType] = [table]
    parts += [Text(f"  {note}", "dim") for note in notes(sweep)]
    found = effects(sweep.trials)
    if found:
        parts.append(_effects_table(found))
        parts.append(
            Text(
                "  rank correlation over the trials of a method: +1 rises with it, -1 falls", "dim"
            )
        )
    return parts


def notes(sweep: SweepRecord) -> list[str]:
    """Return how many tries there were, and who chose what by what."""
    tries = Counter(t.method for t in sweep.trials)
    found = [f"* chosen by the {sweep.criterion} ({sweep.held_out:,} images; no test image)"]
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
        names = dict.fromkeys(name for trial in mine for name in trial.settings)
        for name in names:
            values = [trial.settings.get(name) for trial in mine]
            if len(mine) < _FEW_TRIALS or not _are_numbers(values) or len(set(values)) < 2:
                continue
            numbers = np.array(values, dtype=float)
            cheapest = [min(trial.points) for trial in mine]
            nflops, accuracy = (np.array(side) for side in zip(*cheapest, strict=True))
            found.append(
                Effect(
                    method,
                    name.removeprefix(f"{method}."),
                    len(mine),
                    rank_correlation(numbers, accuracy),
                    rank_correlation(numbers, nflops),
                )
            )
    return found


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


class _Line(NamedTuple):
    name: str
    seed: int
    state: str
    epochs: str
    accuracy: str
    nflops: str
    score: str
    reason: str

    @classmethod
    def of_progress(cls, p: Progress) -> _Line:
        epochs = f"{len(p.history)}/{p.epochs}" if p.trial is not None else ""
        name = _name(p.tried.method, p.tried.settings)
        return cls(name, p.seed, p.state, epochs, *_measured(p.points), _number(p.score), p.reason)

    @classmethod
    def of_row(cls, t: TrialRow) -> _Line:
        name = _name(t.method, t.settings)
        return cls(name, t.seed, t.status, "", *_measured(t.points), _number(t.score), t.reason)


def _name(method: str, settings: Mapping[str, Any]) -> str:
    short = {name.removeprefix(f"{method}."): value for name, value in settings.items()}
    return f"{method} {written(short)}".strip()


def _measured(points: Sequence[tuple[float, float]]) -> tuple[str, str]:
    """Return accuracy in % and nFLOPs, of several points from the cheapest to the dearest."""
    if not points:
        return "", ""
    ordered = sorted({min(points), max(points)})
    accuracies = "-".join(f"{100 * accuracy:.2f}" for _, accuracy in ordered)
    return accuracies, "-".join(f"{nflops:.3f}" for nflops, _ in ordered)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _trial_table() -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("trial", overflow="fold", ratio=1)
    for title in ("seed", "state", "epoch", "acc. %\nheld out", "nFLOPs", "score", "time"):
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _cells(line: _Line, *, spent_s: float) -> list[RenderableType]:
    from rich.text import Text

    name = f"{line.name}\n  {line.reason}" if line.reason else line.name
    state = Text(line.state, _STYLES[line.state])
    spent = _duration(spent_s) if spent_s else ""
    texts = [line.epochs, line.accuracy, line.nflops, line.score, spent]
    return [Text(name), str(line.seed), state, *map(Text, texts)]


def _effects_table(found: Sequence[Effect]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title="what each setting did",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("method")
    table.add_column("setting")
    for title in ("trials", "accuracy", "nFLOPs"):
        table.add_column(title, justify="right")
    for effect in found:
        sides = ("-" if r is None else f"{r:+.2f}" for r in (effect.accuracy, effect.nflops))
        table.add_row(effect.method, effect.setting, str(effect.trials), *sides)
    return table


def _counts(progress: Sequence[Progress], *, total: int, elapsed_s: float) -> str:
    counts = Counter[str](p.state for p in progress if p.state != "running" or p.begun is not None)
    known = len(progress)
    waiting = total - sum(counts.values())
    told = [f"{counts[state]} {state}" for state in _STYLES if counts[state]]
    told += [f"{waiting} waiting"] if waiting > 0 else []
    new = [p for p in progress if p.begun is not None]
    done = sum(p.share for p in new)
    left = total - (known - len(new)) - done
    if done > 0 and left > 0:
        told.append(f"{_duration(elapsed_s * left / done)} left")
    return f"{', '.join(told)}; {_duration(elapsed_s)} so far"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
