"""The command `bench evaluate`, thin: parse, call api, show."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.commands.frame import (
    DataDir,
    Debug,
    FinishedRuns,
    OwnImages,
    Plugins,
    ResultsDir,
    chosen_folders,
    errors_shown,
    load_plugins,
    show_failures,
    show_table,
    stderr,
)


def evaluate(
    runs: FinishedRuns,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dataset: OwnImages = None,
    data_dir: DataDir = None,
    results_dir: ResultsDir = None,
    plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Evaluate finished runs again from their weights, and add what their records lack.

    Records of earlier versions get what is measured today: gradients per block, maps of positions.
    Numbers on record stay; a run that does not come out as recorded is refused.

    * `bench evaluate sgad-cifar10 sact-cifar10`
    * `bench evaluate my_method-photos --dataset photos/`
    """
    with errors_shown(debug):
        from bench import api
        from bench.terminal import TerminalReporter

        load_plugins(plugin)
        folders = chosen_folders(results_dir, data_dir)
        with TerminalReporter(stderr()) as reporter:
            outcome = api.evaluate(runs, folders, device=device, dataset=dataset, reporter=reporter)
        if outcome.records:
            show_table(api.rows_of(outcome))
        show_failures(outcome.failures, debug=debug)
