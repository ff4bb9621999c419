"""The commands `bench data ...`, thin: parse, call the data room, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.frame import DataDir, Debug, chosen_folders, errors_shown

app = typer.Typer(no_args_is_help=True, help="Fetch, import and verify data sets.")


@app.command()
def fetch(name: str, data_dir: DataDir = None, debug: Debug = False) -> None:
    """Download a data set, resumed where it broke off, and check it.

    * `bench data fetch cifar10`
    * `bench data fetch cifar100 --data-dir /data/images`
    """
    with errors_shown(debug):
        from bench.data.load import load_dataset

        data = load_dataset(name, data_dir=chosen_folders(None, data_dir).data)
        typer.echo(f"{data.info.title}: {len(data.train)} + {len(data.test)} images")


@app.command(name="import")
def import_(name: str, folder: Path, data_dir: DataDir = None, debug: Debug = False) -> None:
    """Import a folder with train/ and test/, one folder of images per class in each.

    * `bench data import cifar10 path/to/folder`
    """
    with errors_shown(debug):
        from bench.data.cifar import import_folder

        data = import_folder(name, folder, data_dir=chosen_folders(None, data_dir).data)
        typer.echo(f"{data.info.title}: {len(data.train)} + {len(data.test)} images")


@app.command()
def verify(
    name: str,
    data_dir: DataDir = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Of a folder: leave out what cannot be read.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Check the files of a data set.

    * `bench data verify cifar10`
    * `bench data verify path/to/folder --skip-broken`
    """
    with errors_shown(debug):
        from bench.data import load

        data = chosen_folders(None, data_dir).data
        if skip_broken:
            broken = load.skip_broken(name, data_dir=data)
            typer.echo("\n".join([*broken, f"Left out from now on: {len(broken):,} images"]))
        reports = load.verify(name, data_dir=data)
        for report in reports:
            typer.echo(f"{report.status}: {report.file or name}: {report.detail}")
        if not any(report.status in {"ok", "embedded"} for report in reports):
            raise typer.Exit(1)
