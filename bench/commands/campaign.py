"""The command `bench campaign`, thin: parse, call api, show what is done and what is left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.frame import (
    DataDir,
    Debug,
    Plugins,
    ResultsDir,
    chosen_folders,
    errors_shown,
    load_plugins,
    show_failures,
    show_table,
    stderr,
)


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
    with errors_shown(debug):
        from bench import api
        from bench.options import read_campaign
        from bench.terminal import TerminalReporter

        load_plugins(plugin)
        steps = read_campaign(file, weights_dir=weights_dir)
        folders = chosen_folders(results_dir, data_dir)
        with TerminalReporter(stderr()) as reporter:
            outcome = api.campaign(steps, folders, hours=hours, reporter=reporter)
        show_table(api.rows_of(api.Outcome(outcome.records)))
        if outcome.left:
            said = f"Not begun: {outcome.left} runs; the same command continues."
            stderr().print(said, highlight=False)
        show_failures(outcome.failures, debug=debug)
