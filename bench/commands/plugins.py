"""The commands `bench method ...` and `bench backbone ...`, thin: start one's own, check any."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.commands.frame import command, say
from bench.console import progress, stdout
from bench.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from bench.method import MethodConfig
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
    from bench.registry import METHODS_GROUP, Registry
    from bench.scaffold.package import new_package

    # Names are all that is needed: the other road to them imports torch.
    known: Registry[Any] = Registry(kind="method", group=METHODS_GROUP, base="")
    folder = out or Path(name)
    for path in new_package(name, folder, taken=known.names()):
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
    from bench.registry import BACKBONES_GROUP, Registry
    from bench.scaffold.package import new_backbone

    known: Registry[Any] = Registry(kind="backbone", group=BACKBONES_GROUP, base="")
    file = new_backbone(name, out or Path(f"{name}.py"), taken=known.names())
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
    from bench.method import METHODS
    from bench.testing import checks_of

    configs = _configs(_chosen(names or plugged), set_ or [])
    suites = {
        name: checks_of(METHODS.get(name), config=config, backbone=backbone)
        for name, config in configs.items()
    }
    _attempt(suites, debug=debug)


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
    from rich.progress import MofNCompleteColumn

    errors: list[Exception] = []
    for number, (name, checks) in enumerate(suites.items(), start=1):
        outcomes = []
        title = f"{number}/{len(suites)} {name}"
        with progress(title, MofNCompleteColumn(), total=len(checks)) as advance:
            for check in checks:
                outcomes.append(check.run())
                advance(1)
        stdout().print(outcome_table(outcomes))
        errors += [outcome.error for outcome in outcomes if outcome.error is not None]
    for error in errors if debug else ():
        say("".join(traceback.format_exception(error)))
    if errors:
        raise typer.Exit(1)


def _configs(names: list[str], given: list[str]) -> dict[str, MethodConfig]:
    """Return the settings of each method, by its name."""
    from bench.method import METHODS
    from bench.options import parse_settings
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
    from bench.engine.plan import ALL
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


def outcome_table(outcomes: Sequence[CheckResult]) -> Table:
    """Return one row per check: its name, what came of it, what it proves and what is wrong; a
    reason that several have in full once."""
    from rich.text import Text

    from bench.report.tables.cells import folding_table

    counts = Counter[str](outcome.status for outcome in outcomes)
    said = ", ".join(f"{counts[status]} {status}" for status in _STYLES if counts[status])
    title = f"{outcomes[0].method}: {said}" if outcomes else "nothing checked"
    table = folding_table("check", "outcome", "what it proves", title=title)
    for column in table.columns[:2]:
        column.no_wrap = True
    before = ""
    for outcome in outcomes:
        status = Text(outcome.status, style=_STYLES[outcome.status])
        table.add_row(Text(outcome.check), status, _details(outcome, before))
        before = outcome.detail or before
    return table


def _details(outcome: CheckResult, before: str) -> Text:
    from rich.text import Text

    text = Text(outcome.proves)
    if outcome.status in ("exempt", "not tried"):
        reason = "as above" if outcome.detail == before else outcome.detail
        text.append(f"\n{outcome.status.capitalize()}: {reason}", style="yellow")
    elif outcome.detail:
        text.append(f"\n{outcome.detail}", style="red")
    if outcome.cause:
        text.append(f"\nLikely cause: {outcome.cause}", style="red")
    return text
