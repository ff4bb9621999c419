"""Sweeps as tables: while they run, what was chosen by what, and what each setting did.

Owns columns and words; the trials come from sweep documents and from the ledger of a running sweep.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench.analysis.statistics import rank_correlation
from bench.records.sweep import SweepRecord, TrialRow
from bench.report.tables.columns import plain_table
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
_LONGEST_SETTING = len("side_lr_scale=10.00")


def live_table(
    progress: Sequence[Progress], *, total: int, elapsed_s: float, rows: int, runtime: str = ""
) -> RenderableType:
    """Return what a running sweep looks like: all that run, the newest that ended, and the rest in
    numbers with the time left."""
    from rich.console import Group
    from rich.text import Text

    running = [p for p in progress if p.state == "running" and p.begun is not None]
    ended = [p for p in progress if p.state != "running"]
    table = plain_table()
    table.add_column("trial", overflow="fold", ratio=1)
    for title in ("seed", "state", "epoch", *_titles(runtime), "time"):
        table.add_column(title, justify="right", no_wrap=True)
    for item in (*ended[max(0, len(ended) - max(1, rows - len(running))) :], *running):
        now = time.monotonic()
        spent_s = item.wall_s or (0.0 if item.begun is None else now - item.begun)
        table.add_row(
            Text(_name(item)),
            str(item.seed),
            _state(item.state),
            f"{len(item.history)}/{item.epochs}",
            *_measured(item.points),
            _number(item.score),
            _duration(spent_s),
        )
    return Group(table, Text(_counts(progress, total=total, elapsed_s=elapsed_s), "dim"))


def ended_line(progress: Progress) -> str:
    """Return one line about a trial that has ended, for terminals that cannot be redrawn."""
    accuracy, nflops = _measured(progress.points)
    measured = f", {accuracy} % at {nflops} on held-out images" if accuracy else ""
    reason = f" ({progress.reason})" if progress.reason else ""
    return f"{_name(progress)} seed {progress.seed}: {progress.state}{measured}{reason}"


def sweep_tables(sweep: SweepRecord) -> list[RenderableType]:
    """Return the trials of each method by score, what was chosen by what, what settings did."""
    from rich.text import Text

    methods = dict.fromkeys(trial.method for trial in sweep.trials)
    parts: list[RenderableType] = [_method_table(sweep, method) for method in methods]
    parts += [Text(f"  {line}") for method in methods for line in _as_options(sweep, method)]
    parts += [Text(f"  {note}", "dim") for note in notes(sweep)]
    found = effects(sweep.trials)
    if found:
        parts.append(_effects_table(found))
        parts.append(Text("  Spearman's rank correlation over the trials of a method", "dim"))
    return parts


def _method_table(sweep: SweepRecord, method: str) -> Table:
    from rich.text import Text

    mine = [trial for trial in sweep.trials if trial.method == method]
    chosen = sweep.chosen.get(method, ())
    table = plain_table(method)
    # One column: with a column each, six settings leave no room for their values.
    table.add_column("settings", overflow="fold", min_width=_LONGEST_SETTING)
    for title in ("seed", "state", *_titles(sweep.runtime), "time"):
        table.add_column(title, justify="right", no_wrap=True)
    for trial in sorted(mine, key=_by_score):
        settings = [f"{k.removeprefix(f'{method}.')}={v}" for k, v in trial.settings.items()]
        mark = "* " if trial.run in chosen else ""
        table.add_row(
            Text(" ".join(settings)),
            f"{mark}{trial.seed}",
            _state(trial.status),
            *_measured(trial.points),
            _number(trial.score),
            _duration(trial.wall_s),
        )
    return table


def _as_options(sweep: SweepRecord, method: str) -> list[str]:
    """Return what was chosen for a method as `bench run` takes it, one line at most."""
    if sweep.options.get("search") == "pareto":
        return []  # the front says more
    chosen = sweep.chosen.get(method, ())
    settings = [trial.settings for trial in sweep.trials if trial.run in chosen][:1]
    return [
        f"chosen: --methods {method} {' '.join(f'--set {k}={v}' for k, v in one.items())}"
        for one in settings
    ]


def _by_score(trial: TrialRow) -> float:
    return math.inf if trial.score is None else -trial.score


def notes(sweep: SweepRecord) -> list[str]:
    """Return how many tries there were, and who chose what by what."""
    tries = Counter(t.method for t in sweep.trials)
    found = [f"* chosen by the {sweep.criterion} ({sweep.held_out:,} images; no test image)"]
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


def _titles(runtime: str) -> tuple[str, str, str]:
    return "acc. %\nheld out", f"{runtime}\n/ dense" if runtime else "nFLOPs", "score"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _state(state: str) -> RenderableType:
    from rich.text import Text

    return Text(state, _STYLES[state])


def _effects_table(found: Sequence[Effect]) -> Table:
    table = plain_table("what each setting did")
    table.add_column("method")
    table.add_column("setting")
    for title in ("trials", "accuracy", "cost"):
        table.add_column(title, justify="right")
    for effect in found:
        sides = ("-" if r is None else f"{r:+.2f}" for r in (effect.accuracy, effect.nflops))
        table.add_row(effect.method, effect.setting, str(effect.trials), *sides)
    return table


def _counts(progress: Sequence[Progress], *, total: int, elapsed_s: float) -> str:
    counts = Counter[str](p.state for p in progress if p.state != "running" or p.begun is not None)
    known = len(progress)
    waiting = total - sum(counts.values())
    parts = [f"{counts[state]} {state}" for state in _STYLES if counts[state]]
    parts += [f"{waiting} waiting"] if waiting > 0 else []
    new = [p for p in progress if p.begun is not None]
    done = sum(p.share for p in new)
    left = total - (known - len(new)) - done
    if done > 0 and left > 0:
        parts.append(f"{_duration(elapsed_s * left / done)} left")
    return f"{', '.join(parts)}; {_duration(elapsed_s)} so far"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
