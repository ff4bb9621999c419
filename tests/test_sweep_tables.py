"""The table of a sweep at the width of a terminal."""

from __future__ import annotations

import io
from collections.abc import Callable

from rich.console import Console

from bench.commands.sweeps import sweep_tables
from bench.records.sweep import SweepRecord, TrialRow

SETTINGS = {
    **{"sgad.alpha": 0.4004, "sgad.beta": 12.25, "sgad.gamma": 0.031},
    **{"sgad.d_max": 0.36, "sgad.side_lr_scale": 9.82, "train.lr": 0.015},
}


def test_six_settings_can_be_read_at_80_columns_and_the_chosen_ones_copied(
    make_sweep: Callable[..., SweepRecord],
) -> None:
    chosen = TrialRow(method="sgad", settings=SETTINGS, seed=0, run="a", status="finished")
    settings = {**SETTINGS, "sgad.alpha": 0.5}
    sweep = make_sweep(chosen, chosen.model_copy(update={"settings": settings, "run": "b"}))
    printed = io.StringIO()
    console = Console(file=printed, width=80)
    for part in sweep_tables(sweep):
        console.print(part)
    text = printed.getvalue()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    for name, value in SETTINGS.items():
        assert f"{name.removeprefix('sgad.')}={value}" in text
    told = " ".join(text.split())
    options = " ".join(f"--set {name}={value}" for name, value in SETTINGS.items())
    assert f"chosen: --methods sgad {options}" in told


def test_of_many_trials_the_best_are_shown_and_the_rest_counted(
    make_sweep: Callable[..., SweepRecord],
) -> None:
    trials = [
        TrialRow(method="sgad", settings={"sgad.alpha": n}, seed=0, run=f"r{n}", status="finished")
        for n in range(40)
    ]
    scored = [trial.model_copy(update={"score": n / 40}) for n, trial in enumerate(trials)]
    printed = io.StringIO()
    for part in sweep_tables(make_sweep(*scored)):
        Console(file=printed, width=80).print(part)
    text = printed.getvalue()
    assert "alpha=39 " in text and "alpha=10 " in text and "alpha=9 " not in text
    assert "sgad: the best 30 of 40 trials" in " ".join(text.split())
