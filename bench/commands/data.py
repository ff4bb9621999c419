"""The commands `bench data ...`, thin: parse, call the data room, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.frame import command
from bench.folders import Folders

app = typer.Typer(no_args_is_help=True, help="Fetch, import and verify data sets.")


@app.command()
@command("data_dir")
def fetch(
    folders: Folders,
    name: str,
) -> None:
    """Download a data set, resumed where it broke off, and check it.

    * `bench data fetch cifar10`
    * `bench data fetch cifar100 --data-dir /data/images`
    """
    from bench.data.load import load_dataset

    data = load_dataset(name, data_dir=folders.data)
    typer.echo(f"{data.info.title}: {len(data.train)} + {len(data.test)} images")


@app.command(name="import")
@command("data_dir")
def import_(
    folders: Folders,
    name: str,
    folder: Path,
) -> None:
    """Import a folder with train/ and test/, one folder of images per class in each.

    * `bench data import cifar10 path/to/folder`
    """
    from bench.data.cifar import import_folder

    data = import_folder(name, folder, data_dir=folders.data)
    typer.echo(f"{data.info.title}: {len(data.train)} + {len(data.test)} images")


@app.command()
@command("data_dir")
def verify(
    folders: Folders,
    name: str,
    skip_broken: Annotated[
        bool,
        typer.Option("--skip-broken", help="Leave out images that cannot be read."),
    ] = False,
) -> None:
    """Check the files of a data set.

    * `bench data verify cifar10`
    * `bench data verify path/to/folder --skip-broken`
    """
    from bench.data import load

    data = folders.data
    if skip_broken:
        broken = load.skip_broken(name, data_dir=data)
        typer.echo("\n".join([*broken, f"Left out from now on: {len(broken):,} images"]))
    reports = load.verify(name, data_dir=data)
    for report in reports:
        typer.echo(f"{report.status}: {report.file or name}: {report.detail}")
    if not any(report.status in {"ok", "embedded"} for report in reports):
        raise typer.Exit(1)
