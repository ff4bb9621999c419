"""The commands that make runs, thin: parse, call api, show. `run`, `sweep`, `campaign`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.frame import command, say, show_failures, show_table
from bench.console import stdout
from bench.folders import Folders
from bench.options import RunOptions
from bench.sweep.options import SweepOptions


@command("data_dir", "results_dir", "config", "plugin", options=RunOptions)
def run(
    options: RunOptions,
    folders: Folders,
    debug: bool,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do finished runs of this command again.")
    ] = False,
) -> None:
    """Train, evaluate, count, time and record; then show the table and draw the Pareto plot.

    Without options this is the demo: embedded data, a dense network, SGAD and BlockDrop.

    * `bench run --methods resnet,sgad,blockdrop --dataset cifar10 --recipe fair`
    * `bench run --methods sgad --set sgad.d_max=0.8 --seeds 0,1,2`
    """
    from bench import api, drawing
    from bench.terminal import TerminalReporter

    with TerminalReporter() as reporter:
        outcome = api.run(options, folders, reporter=reporter, forget=fresh)
    show_table(api.rows_of(outcome))
    figure = drawing.draw_run(outcome.records, folders)
    if figure is not None:
        say(f"Pareto plot: {figure}")
    show_failures(outcome.failures, debug=debug)


@command("data_dir", "results_dir", "config", "plugin", options=SweepOptions)
def sweep(options: SweepOptions, folders: Folders) -> None:
    """Try settings and seeds with Ray Tune; every trial is a run like those of `bench run`.

    A trial that is recorded is not run again; the same command continues after an interruption.
    What is chosen is chosen on held-out training images.

    * `bench sweep --methods sgad --param sgad.d_max=0.4,0.6,0.8 --param sgad.gamma=0.1,0.3`
    * `bench sweep --methods sgad,blockdrop --samples 8 --budget 0.7 --scheduler asha`
    * `bench sweep --methods sgad --search pareto --samples 24`
    """
    from bench import api, drawing
    from bench.commands.sweeps import SweepBoard, sweep_tables

    with SweepBoard() as board:
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


@command("data_dir", "results_dir", "plugin")
def campaign(
    folders: Folders,
    debug: bool,
    file: Annotated[Path, typer.Argument(help="A YAML file with steps.")],
    hours: Annotated[
        float | None, typer.Option(min=0, help="Begin no run after this time.")
    ] = None,
) -> None:
    """Do many run commands from one file, side by side; the same command continues.

    A step is the options of a `bench run`, laid over those in `common`.

    * `bench campaign results/reference/scratch.yaml --hours 4`
    """
    from bench import api
    from bench.options import read_campaign
    from bench.terminal import TerminalReporter

    with TerminalReporter() as reporter:
        outcome = api.campaign(read_campaign(file), folders, hours=hours, reporter=reporter)
    show_table(api.rows_of(outcome))
    if outcome.left:
        say(f"Not begun: {outcome.left} runs; the same command continues.")
    show_failures(outcome.failures, debug=debug)
