"""The commands `bench data ...`, thin: parse, call the data room, show."""

from __future__ import annotations

from pathlib import Path

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
    """Download a data set and check it.

    * `bench data fetch cifar10`
    * `bench data fetch cifar100 --data-dir /data/images`
    """
    from bench.data.load import load_dataset, summary

    typer.echo(summary(load_dataset(name, data_dir=folders.data)))


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
    from bench.data.load import summary

    typer.echo(summary(import_folder(name, folder, data_dir=folders.data)))


@app.command()
@command("data_dir")
def verify(
    folders: Folders,
    name: str,
) -> None:
    """Check that a data set can be read, without the network.

    * `bench data verify cifar10`
    * `bench data verify path/to/folder`
    """
    from bench.data.load import load_dataset, summary

    typer.echo(summary(load_dataset(name, data_dir=folders.data, network="forbidden")))
