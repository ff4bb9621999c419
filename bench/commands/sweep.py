"""The command `bench sweep`, thin: parse, call api, show trials while they run and at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.commands.frame import (
    BackboneName,
    Compiled,
    DataDir,
    Dataset,
    Debug,
    DeviceName,
    Epochs,
    Normalise,
    Plugins,
    Pretrained,
    RecipeName,
    ResultsDir,
    Seeds,
    Shortcut,
    TrainingPrecision,
    chosen_folders,
    errors_shown,
    load_plugins,
    stderr,
    stdout,
)


def sweep(
    methods: Annotated[
        str | None, typer.Option(help="Names with commas, or all. Default: sgad.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            help="METHOD.KEY=RANGE, repeatable: 0.1,0.3,1 or uniform:0.3:0.9 or loguniform:0.01:1 "
            "or int:2:8. Without any, a method is searched over its own ranges."
        ),
    ] = None,
    search: Annotated[
        Literal["grid", "random", "optuna", "pareto"] | None,
        typer.Option(help="Default: grid where all ranges are lists, else random."),
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(help="accuracy,nflops or accuracy,latency_ms:RUNTIME. Default: the first."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Settings tried for each method. Default: 8.")
    ] = None,
    seeds: Seeds = None,
    scheduler: Annotated[
        Literal["fifo", "asha", "median"] | None,
        typer.Option(help="Which trials are stopped early. Default: fifo, none."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="Choose by accuracy at no more than this nFLOPs. Default: hypervolume."),
    ] = None,
    dataset: Dataset = None,
    backbone: BackboneName = None,
    shortcut: Shortcut = None,
    recipe: RecipeName = None,
    epochs: Epochs = None,
    pretrained: Pretrained = None,
    normalise: Normalise = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="METHOD.KEY=VALUE or train.KEY=VALUE for all trials."),
    ] = None,
    precision: TrainingPrecision = None,
    compiled: Compiled = None,
    held_out: Annotated[
        int | None,
        typer.Option(min=1, help="Training images to choose by. Default: a tenth."),
    ] = None,
    device: DeviceName = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Cores and threads. Default: 1.")
    ] = None,
    gpus_per_trial: Annotated[
        float | None, typer.Option(min=0, help="A fraction lets trials share one.")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(min=1, help="Seconds after which a trial has failed.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster, or auto. Default: this machine.")
    ] = None,
    data_dir: DataDir = None,
    results_dir: ResultsDir = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file with these options.")] = None,
    plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Try settings and seeds with Ray Tune; every trial is a run like those of `bench run`.

    A trial that is recorded is not run again; the same command continues after an interruption.
    What is chosen is chosen on held-out training images.

    * `bench sweep --methods sgad --param sgad.d_max=0.4,0.6,0.8 --param sgad.gamma=0.1,0.3`
    * `bench sweep --methods sgad,blockdrop --samples 8 --budget 0.7 --scheduler asha`
    * `bench sweep --methods sgad --search pareto --samples 24`
    """
    with errors_shown(debug):
        from bench import api
        from bench.commands.sweep_board import SweepBoard
        from bench.commands.sweep_tables import sweep_tables
        from bench.engine.plan import parse_settings
        from bench.options import read_options
        from bench.spaces import parse_params
        from bench.sweep.options import SweepOptions

        load_plugins(plugin)
        params = {name: str(space) for name, space in parse_params(param or []).items()}
        given = {
            "methods": methods,
            "params": params,
            "search": search,
            "objectives": objectives,
            "samples": samples,
            "seeds": seeds,
            "scheduler": scheduler,
            "budget": budget,
            "dataset": dataset,
            "backbone": backbone,
            "shortcut": shortcut,
            "recipe": recipe,
            "epochs": epochs,
            "pretrained": pretrained,
            "normalise": normalise,
            "settings": parse_settings(set_ or []),
            "precision": precision,
            "compiled": compiled,
            "held_out": held_out,
            "device": device,
            "threads": threads,
            "gpus_per_trial": gpus_per_trial,
            "time_limit_s": time_limit,
            "address": address,
        }
        options = read_options(SweepOptions, given, file=config)
        folders = chosen_folders(results_dir, data_dir)
        with SweepBoard(stderr()) as board:
            swept = api.sweep(options, folders, listener=board)
        for part in sweep_tables(swept.sweep):
            stdout().print(part)
        front = api.draw_sweep(swept.sweep, swept.records, folders)
        for line in front.lines:
            stdout().print(line, markup=False, soft_wrap=True, highlight=False)
        if front.figure is not None:
            stderr().print(f"Pareto plot: {front.figure}", soft_wrap=True, highlight=False)
        if any(trial.status == "failed" for trial in swept.sweep.trials):
            raise typer.Exit(1)
