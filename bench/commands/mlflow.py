"""The commands `bench mlflow ...`, thin: parse, call the tracking of records, show."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from bench.commands.frame import Debug, ResultsDir, chosen_folders, errors_shown

app = typer.Typer(no_args_is_help=True, help="Bring records into MLflow, and look at them.")


@app.command()
def sync(results_dir: ResultsDir = None, debug: Debug = False) -> None:
    """Log all records that MLflow lacks, each once.

    * `bench mlflow sync`
    * `bench mlflow sync --results-dir results/reference`
    """
    with errors_shown(debug):
        from bench.records.store import RunStore
        from bench.records.tracking import sync as sync_records

        results = sync_records(RunStore(chosen_folders(results_dir, None).results))
        for name, result in results.items():
            typer.echo(f"{name}: {result.detail}")
        if not all(result.logged for result in results.values()):
            raise typer.Exit(1)


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1)] = 5000,
    results_dir: ResultsDir = None,
    debug: Debug = False,
) -> None:
    """Open MLflow's own pages on these results, until interrupted.

    * `bench mlflow ui`
    * `bench mlflow ui --port 5001`
    """
    with errors_shown(debug):
        import subprocess

        from bench.records.tracking import default_uri

        uri = default_uri(chosen_folders(results_dir, None).results)
        command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
        raise typer.Exit(subprocess.call([*command, "--port", str(port)]))
