"""The commands `bench method ...`, thin: start a method of one's own, check any method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.checking import attempted, end_by
from bench.commands.frame import (
    Debug,
    Plugins,
    Settings,
    errors_shown,
    load_plugins,
    stderr,
)
from bench.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from bench.method import MethodConfig
    from bench.testing import Outcome

app = typer.Typer(no_args_is_help=True, help="Start a method of your own, and check methods.")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Of the method and its module, like my_method.")],
    out: Annotated[Path | None, typer.Option(help="The new folder. Default: ./NAME.")] = None,
    debug: Debug = False,
) -> None:
    """Write an installable package with a small method that works.

    * `bench method new my_method`
    """
    with errors_shown(debug):
        from bench.registry import METHODS_GROUP, Registry
        from bench.scaffold import new_package

        # Names are all that is needed: the other road to them imports torch.
        known: Registry[object] = Registry(kind="method", group=METHODS_GROUP, base="")
        folder = out or Path(name)
        for path in new_package(name, folder, taken=known.names()):
            typer.echo(path)
        stderr().print(
            f"Next:  pip install -e {folder}\n"
            f"       bench method check {name}\n"
            f"       bench run --methods resnet,{name}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


@app.command()
def check(
    names: Annotated[
        list[str] | None, typer.Argument(help="Methods, or all. Default: those of --plugin.")
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="To try them on. Default: CIFAR ResNets, two of them.")
    ] = "",
    set_: Settings = None,
    plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Check that methods keep the contract, each in some seconds on synthetic images.

    * `bench method check my_method`
    * `bench method check --plugin my_method.py --set my_method.cost=0.2`
    * `bench method check all --backbone torchvision/resnet18`
    """
    with errors_shown(debug):
        from bench.method import METHODS
        from bench.testing import checks_of

        added = load_plugins(plugin)
        configs = _configs(_chosen(names or added), set_ or [])
        outcomes: list[Outcome] = []
        for number, (name, config) in enumerate(configs.items()):
            checks = checks_of(METHODS.get(name), config=config, backbone=backbone)
            outcomes += attempted(checks, f"{number + 1}/{len(configs)} {name}")
        end_by(outcomes, debug=debug)


def _configs(names: list[str], given: list[str]) -> dict[str, MethodConfig]:
    """Return the settings of each method, by its name."""
    from bench.engine.plan import parse_settings
    from bench.method import METHODS
    from bench.plugins import method_config

    settings = parse_settings(given)
    for name in settings:
        if name not in names:
            raise ConfigError(
                f"--set {name}.{next(iter(settings[name]))}: '{name}' is not among what is checked:"
                f" {', '.join(names)}."
            )
    return {name: method_config(METHODS.get(name), settings.get(name, {})) for name in names}


def _chosen(names: list[str]) -> list[str]:
    from bench.engine.controls import ALL
    from bench.method import METHODS

    if not names:
        raise ConfigError(
            "No method is named.", hint="Name some, or all, or give a file with --plugin."
        )
    chosen = METHODS.names() if ALL in names else list(dict.fromkeys(names))
    for name in chosen:
        try:
            METHODS.get(name)
        except UnknownNameError as error:
            own = "One of your own: pip install -e its folder first, or --plugin FILE."
            raise ConfigError(error.message, hint=f"{error.hint} {own}") from None
    return chosen
