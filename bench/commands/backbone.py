"""The commands `bench backbone ...`, thin: start a backbone of one's own, check any."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.checking import attempted, end_by
from bench.commands.frame import Debug, Plugins, errors_shown, load_plugins, stderr

if TYPE_CHECKING:
    from bench.testing import Outcome

app = typer.Typer(no_args_is_help=True, help="Start a backbone of your own, and check backbones.")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Of the backbone and its file, like my_backbone.")],
    out: Annotated[Path | None, typer.Option(help="The new file. Default: ./NAME.py.")] = None,
    debug: Debug = False,
) -> None:
    """Write a plugin file with a small backbone that works.

    * `bench backbone new my_backbone`
    """
    with errors_shown(debug):
        from bench.registry import BACKBONES_GROUP, Registry
        from bench.scaffold import new_backbone

        known: Registry[object] = Registry(kind="backbone", group=BACKBONES_GROUP, base="")
        file = new_backbone(name, out or Path(f"{name}.py"), taken=known.names())
        typer.echo(file)
        stderr().print(
            f"Next:  bench backbone check {name} --plugin {file}\n"
            f"       bench run --backbone {name} --plugin {file} --methods resnet,convnet_aig",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


@app.command()
def check(
    names: Annotated[list[str], typer.Argument(help="Backbones, like torchvision/resnet18.")],
    plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Check that backbones keep the contract, each in some seconds on synthetic images.

    * `bench backbone check torchvision/resnet18`
    * `bench backbone check my_backbone --plugin my_backbone.py`
    """
    with errors_shown(debug):
        from bench.networks.trunk import Backbone
        from bench.testing import backbone_checks

        load_plugins(plugin)
        for name in names:
            Backbone(name, 10, (3, 224, 224))  # an unknown name is no failed check
        outcomes: list[Outcome] = []
        for number, name in enumerate(names):
            outcomes += attempted(backbone_checks(name), f"{number + 1}/{len(names)} {name}")
        end_by(outcomes, debug=debug)
