"""The command `bench report`, thin: parse, call api, say where the page lies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.frame import (
    DataDir,
    Debug,
    ResultsDir,
    chosen_folders,
    errors_shown,
    stderr,
)


def report(
    dataset: Annotated[str | None, typer.Option(help="Default: the only one recorded.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder. Default: RESULTS/report/DATASET.")
    ] = None,
    results_dir: ResultsDir = None,
    data_dir: DataDir = None,
    debug: Debug = False,
) -> None:
    """Write one page about all runs on a data set, and its tables and figures for papers.

    The page needs no network. It says first which methods beat a static network of their cost.

    * `bench report --dataset cifar10 --out report/`
    """
    with errors_shown(debug):
        from bench import api

        folders = chosen_folders(results_dir, data_dir)
        page, *others = api.report(folders, dataset=dataset, out=out)
        typer.echo(page)
        stderr().print(f"Beside it: {len(others)} tables and figures", highlight=False)
