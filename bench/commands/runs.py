"""The commands that make runs, thin: parse, call api, show. `run`, `sweep`, `campaign`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.commands.frame import (
    BackboneName,
    Compiled,
    ConfigFile,
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
    Runtimes,
    Seeds,
    Settings,
    Shortcut,
    Threads,
    TrainingPrecision,
    Workers,
    chosen_folders,
    errors_shown,
    options_in,
    say,
    show_failures,
    show_table,
    stderr,
    stdout,
)


def run(
    methods: Annotated[
        str | None, typer.Option(help="Names with commas, or all. Default: resnet,sgad,blockdrop.")
    ] = None,
    dataset: Dataset = None,
    backbone: BackboneName = None,
    shortcut: Shortcut = None,
    recipe: RecipeName = None,
    epochs: Epochs = None,
    seeds: Seeds = None,
    device: DeviceName = None,
    pretrained: Pretrained = None,
    normalise: Normalise = None,
    set_: Settings = None,
    precision: TrainingPrecision = None,
    compiled: Compiled = None,
    held_out: Annotated[
        int | None, typer.Option(min=0, help="Training images kept out, watched by epoch.")
    ] = None,
    controls: Annotated[
        str | None, typer.Option(help="Beside dynamic methods: all, none, or names with commas.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(help="A finished run that a control is made from; repeatable."),
    ] = None,
    latency: Annotated[
        Literal["smoke", "default", "publish", "off"] | None,
        typer.Option(help="How thoroughly to time. Default: smoke."),
    ] = None,
    threads: Threads = None,
    workers: Workers = None,
    runtime: Runtimes = None,
    data_dir: DataDir = None,
    results_dir: ResultsDir = None,
    config: ConfigFile = None,
    plugin: Plugins = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do finished runs of this command again.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train, evaluate, count, time and record; then show the table and draw the Pareto plot.

    Without options this is the demo: embedded data, a dense network, SGAD and BlockDrop.

    * `bench run --methods resnet,sgad,blockdrop --dataset cifar10 --recipe fair`
    * `bench run --methods sgad --set sgad.d_max=0.8 --seeds 0,1,2`
    """
    given = locals()
    with errors_shown(debug, plugin):
        from bench import api, drawing
        from bench.options import RunOptions, read_options
        from bench.terminal import TerminalReporter

        options = read_options(RunOptions, options_in(given, RunOptions), file=config)
        folders = chosen_folders(results_dir, data_dir)
        with TerminalReporter(stderr()) as reporter:
            outcome = api.run(options, folders, reporter=reporter, forget=fresh)
        show_table(api.rows_of(outcome))
        figure = drawing.draw_run(outcome.records, folders)
        if figure is not None:
            say(f"Pareto plot: {figure}")
        show_failures(outcome.failures, debug=debug)


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
        int | None, typer.Option(min=1, help="Training images to choose by. Default: a tenth.")
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
    config: ConfigFile = None,
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
    given = locals()
    with errors_shown(debug, plugin):
        from bench import api, drawing
        from bench.commands.sweep_board import SweepBoard
        from bench.commands.sweep_tables import sweep_tables
        from bench.options import read_options
        from bench.spaces import parse_params
        from bench.sweep.options import SweepOptions

        params = {name: str(space) for name, space in parse_params(param or []).items()}
        asked = {**options_in(given, SweepOptions), "params": params}
        options = read_options(SweepOptions, asked, file=config)
        folders = chosen_folders(results_dir, data_dir)
        with SweepBoard(stderr()) as board:
            swept = api.sweep(options, folders, listener=board)
        for part in sweep_tables(swept.sweep):
            stdout().print(part)
        front = drawing.draw_sweep(swept.sweep, swept.records, folders)
        for line in front.lines:
            stdout().print(line, markup=False, soft_wrap=True, highlight=False)
        if front.figure is not None:
            say(f"Pareto plot: {front.figure}")
        if any(trial.status == "failed" for trial in swept.sweep.trials):
            raise typer.Exit(1)


def campaign(
    file: Annotated[Path, typer.Argument(help="A YAML file with steps.")],
    hours: Annotated[
        float | None, typer.Option(min=0, help="Begin no run after this time.")
    ] = None,
    weights_dir: Annotated[
        Path | None, typer.Option(help="Where the weights lie that the steps start from.")
    ] = None,
    data_dir: DataDir = None,
    results_dir: ResultsDir = None,
    plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Do many run commands from one file, side by side; the same command continues.

    A step is the options of a `bench run`, laid over those in `common`.

    * `bench campaign results/reference/campaign.yaml --hours 4 --weights-dir weights/`
    """
    with errors_shown(debug, plugin):
        from bench import api
        from bench.options import read_campaign
        from bench.terminal import TerminalReporter

        steps = read_campaign(file, weights_dir=weights_dir)
        folders = chosen_folders(results_dir, data_dir)
        with TerminalReporter(stderr()) as reporter:
            outcome = api.campaign(steps, folders, hours=hours, reporter=reporter)
        show_table(api.rows_of(outcome))
        if outcome.left:
            say(f"Not begun: {outcome.left} runs; the same command continues.")
        show_failures(outcome.failures, debug=debug)
