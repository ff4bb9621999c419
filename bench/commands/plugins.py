"""The commands `bench method ...` and `bench backbone ...`, thin: start one's own, check any."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.frame import command, say
from bench.console import progress, stdout
from bench.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from rich.table import Table

    from bench.method import Method
    from bench.testing import Check, CheckResult

_STYLES = {"passed": "green", "failed": "bold red", "exempt": "yellow", "not tried": "yellow"}

method = typer.Typer(no_args_is_help=True, help="Start a method of your own, and check methods.")
backbone = typer.Typer(
    no_args_is_help=True, help="Start a backbone of your own, and check backbones."
)


@method.command("new")
@command()
def new_method(
    name: Annotated[str, typer.Argument(help="Of the method and its module, like my_method.")],
    out: Annotated[Path | None, typer.Option(help="The new folder. Default: ./NAME.")] = None,
) -> None:
    """Write an installable package with a small method that works.

    * `bench method new my_method`
    """
    from bench.method import METHODS
    from bench.scaffold.package import new_package

    folder = out or Path(name)
    for path in new_package(name, folder, taken=METHODS.names()):
        typer.echo(path)
    say(
        f"Next:  pip install -e {folder}\n"
        f"       bench method check {name}\n"
        f"       bench run --methods resnet,{name}"
    )


@backbone.command("new")
@command()
def new_backbone(
    name: Annotated[str, typer.Argument(help="Of the backbone and its file, like my_backbone.")],
    out: Annotated[Path | None, typer.Option(help="The new file. Default: ./NAME.py.")] = None,
) -> None:
    """Write a plugin file with a small backbone that works.

    * `bench backbone new my_backbone`
    """
    from bench.networks.trunk import BACKBONES
    from bench.scaffold.package import new_backbone

    file = new_backbone(name, out or Path(f"{name}.py"), taken=BACKBONES.names())
    typer.echo(file)
    say(
        f"Next:  bench backbone check {name} --plugin {file}\n"
        f"       bench run --backbone {name} --plugin {file} --methods resnet,convnet_aig"
    )


@method.command("check")
@command("plugin")
def check_methods(
    debug: bool,
    plugged: list[str],
    names: Annotated[
        list[str] | None, typer.Argument(help="Methods, or all. Default: those of --plugin.")
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="To try them on. Default: CIFAR ResNets, two of them.")
    ] = "",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="METHOD.KEY=VALUE or train.KEY=VALUE; repeatable."),
    ] = None,
) -> None:
    """Check that methods keep the contract, each in some seconds on synthetic images.

    * `bench method check my_method`
    * `bench method check --plugin my_method.py --set my_method.cost=0.2`
    * `bench method check all --backbone torchvision/resnet18`
    """
    from bench.engine.plan import ALL
    from bench.method import METHODS
    from bench.options import parse_settings
    from bench.plugins import method_config
    from bench.testing import checks_of

    given = names or plugged
    if not given:
        raise ConfigError(
            "No method is named.", hint="Name some, or all, or give a file with --plugin."
        )
    chosen = {name: _known(name) for name in (METHODS if ALL in given else given)}
    settings = parse_settings(set_ or [])
    for other in settings.keys() - chosen:
        raise ConfigError(f"'{other}' is not among what is checked: {', '.join(chosen)}.")
    suites = {
        name: checks_of(kind, config=method_config(kind, settings.get(name, {})), backbone=backbone)
        for name, kind in chosen.items()
    }
    _attempt(suites, debug=debug)


def _known(name: str) -> type[Method]:
    from bench.method import METHODS

    try:
        return METHODS.get(name)
    except UnknownNameError as error:
        own = "One of your own: pip install -e its folder first, or --plugin FILE."
        raise ConfigError(error.message, hint=f"{error.hint} {own}") from None


@backbone.command("check")
@command("plugin")
def check_backbones(
    debug: bool,
    names: Annotated[list[str], typer.Argument(help="Backbones, like torchvision/resnet18.")],
) -> None:
    """Check that backbones keep the contract, each in some seconds on synthetic images.

    * `bench backbone check torchvision/resnet18`
    * `bench backbone check my_backbone --plugin my_backbone.py`
    """
    from bench.networks.trunk import Backbone
    from bench.testing import backbone_checks

    for name in names:
        Backbone(name, 10, (3, 224, 224))  # an unknown name is no failed check
    _attempt({name: backbone_checks(name) for name in names}, debug=debug)


def _attempt(suites: Mapping[str, Sequence[Check]], *, debug: bool) -> None:
    """Run the checks of methods or backbones and show what came of them; end with status 1 if one
    failed, with `debug` after the tracebacks."""
    errors: list[Exception] = []
    for number, (name, checks) in enumerate(suites.items(), start=1):
        outcomes = []
        title = f"{number}/{len(suites)} {name}"
        with progress(title, total=len(checks)) as advance:
            for check in checks:
                outcomes.append(check.run())
                advance()
        stdout().print(outcome_table(outcomes))
        errors += [outcome.error for outcome in outcomes if outcome.error is not None]
    for error in errors if debug else ():
        say("".join(traceback.format_exception(error)))
    if errors:
        raise typer.Exit(1)


def outcome_table(outcomes: Sequence[CheckResult]) -> Table:
    """Return one row per check: its name, what came of it, what it proves and what is wrong."""
    from rich.text import Text

    from bench.report.tables.cells import folding_table

    counts = Counter[str](outcome.status for outcome in outcomes)
    said = ", ".join(f"{counts[status]} {status}" for status in _STYLES if counts[status])
    table = folding_table(
        "check", "outcome", "what it proves", title=f"{outcomes[0].method}: {said}"
    )
    for column in table.columns[:2]:
        column.no_wrap = True
    for outcome in outcomes:
        style = _STYLES[outcome.status]
        details = Text(outcome.proves)
        if outcome.status in ("exempt", "not tried"):
            details.append(f"\n{outcome.status.capitalize()}: {outcome.detail}", style=style)
        elif outcome.detail:
            details.append(f"\n{outcome.detail}", style="red")
        if outcome.cause:
            details.append(f"\nLikely cause: {outcome.cause}", style="red")
        table.add_row(Text(outcome.check), Text(outcome.status, style=style), details)
    return table
