"""The commands `bench mlflow ...`, thin: parse, call the tracking of records, show."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from bench.commands.frame import OwnImages, Point, command
from bench.folders import Folders

app = typer.Typer(no_args_is_help=True, help="Bring records into MLflow, and look at them.")


@app.command()
@command("results_dir")
def sync(
    folders: Folders,
) -> None:
    """Log all records that MLflow lacks, each once.

    * `bench mlflow sync`
    * `bench mlflow sync --results-dir results/reference`
    """
    from bench.records.store import RunStore
    from bench.records.tracking import sync as sync_records

    store = RunStore(folders.results)
    if not store.names():
        typer.echo(f"No runs in {store.results_dir}: nothing to log.", err=True)
        return
    results = sync_records(store)
    for name, result in results.items():
        typer.echo(f"{name}: {result.detail}")
    if not all(result.logged for result in results.values()):
        raise typer.Exit(1)


@app.command()
@command("data_dir", "results_dir", "plugin")
def register(
    folders: Folders,
    run: Annotated[str, typer.Argument(help="Name or key of a finished run.")],
    point: Point = None,
    dataset: OwnImages = None,
) -> None:
    """Put a run into MLflow's registry, as an ONNX file that mlflow.pyfunc loads by itself.

    * `bench mlflow register sgad-cifar10`
    """
    from bench import api

    made = api.register(run, folders, point=point, dataset=dataset)
    known = "" if made.new else ", which was there already"
    typer.echo(f"models:/{made.name}/{made.version}{known}")


@app.command()
@command("results_dir")
def ui(
    folders: Folders,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Open MLflow's own pages on these results, until interrupted.

    * `bench mlflow ui`
    * `bench mlflow ui --port 5001`
    """
    from bench.records.mlflow_connection import default_uri

    uri = default_uri(folders.results)
    # Not as an argument: every user of the machine reads those, and a password may be in it.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--port", str(port)])
