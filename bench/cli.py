"""The command line: which commands there are. Owns no work and imports nothing heavy on top."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bench.commands import data, mlflow, plugins
from bench.commands.finished import (
    doctor,
    evaluate,
    export,
    latency,
    list_,
    pareto,
    report,
    results,
)
from bench.commands.runs import campaign, run, sweep
from bench.folders import from_home


class _FromHome(TyperGroup):
    """Commands whose arguments may begin with ~, also in quotes and behind --option=."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        parsed: list[str] = super().parse_args(ctx, list(map(_with_home, args)))
        return parsed


def _with_home(argument: str) -> str:
    option, equals, value = argument.partition("=")
    if equals and option.startswith("--"):
        return f"{option}={from_home(value)}"
    return from_home(argument)


app = typer.Typer(
    name="bench",
    cls=_FromHome,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Benchmark dynamic inference: gated networks on one backbone, one recipe, one machine. "
    "They really skip, and error bars say who wins.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"skipbench {version('skipbench')}")
        raise typer.Exit


@app.callback()
def _without_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    del version  # told by its callback, which needs no command


# As the help lists them: first what makes runs, then what looks at them, then what serves both.
for command in (
    *(run, sweep, campaign),
    *(results, pareto, report, latency, evaluate, export),
    *(list_, doctor),
):
    app.command(name=command.__name__.rstrip("_"))(command)
app.add_typer(plugins.method, name="method")
app.add_typer(plugins.backbone, name="backbone")
app.add_typer(data.app, name="data")
app.add_typer(mlflow.app, name="mlflow")


def main() -> None:
    """Run the command line."""
    app()
