"""What all commands share: options, folders, consoles, how tables and errors are shown.

Owns no command and no work; imports nothing heavy on top.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bench.errors import BenchError
from bench.folders import Folders, default_data_dir, default_results_dir

if TYPE_CHECKING:
    from bench.engine.supervising import Failure
    from bench.report.data.row import Row

ResultsDir = Annotated[
    Path | None, typer.Option(help="Where records lie. Default: $BENCH_RESULTS or ./results.")
]
DataDir = Annotated[
    Path | None, typer.Option(help="Where data sets lie. Default: $BENCH_DATA or ./data.")
]
Dataset = Annotated[
    str | None, typer.Option(help="A name or a folder of images. Default: graded_digits.")
]
BackboneName = Annotated[
    str | None, typer.Option(help="Default: resnet32, or resnet14 for embedded data.")
]
Shortcut = Annotated[Literal["A", "B"] | None, typer.Option(help="At stage borders.")]
RecipeName = Annotated[
    str | None, typer.Option(help="smoke, quick, finetune, fair, paper. Default: quick.")
]
Seeds = Annotated[str | None, typer.Option(help="With commas. Default: 0.")]
DeviceName = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
FinishedRuns = Annotated[
    list[str],
    typer.Argument(help="Finished runs by name, key, or the beginning of either: all that match."),
]
OwnImages = Annotated[
    str | None, typer.Option(help="The folder of images, for runs on one of your own.")
]
Pretrained = Annotated[Path | None, typer.Option(help="Weights of a trained ResNet to start from.")]
Normalise = Annotated[
    str | None,
    typer.Option(help="imagenet, cifar or MEAN/STD. Default: of the weights or the data."),
]
Epochs = Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's.")]
TrainingPrecision = Annotated[
    Literal["fp32", "bf16", "auto"] | None,
    typer.Option(help="auto: bf16 where a trial finds that this machine trains faster with it."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="CPU threads of each training. Default: by the size of the images and the runs."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processes that read images too many for memory. Default: one a core."
    ),
]
Compiled = Annotated[bool | None, typer.Option("--compile", help="Train with torch.compile.")]
Point = Annotated[str | None, typer.Option(help="Operating point, like p=2. Default: the first.")]
ConfigFile = Annotated[Path | None, typer.Option(help="A YAML file with these options.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="METHOD.KEY=VALUE or train.KEY=VALUE; repeatable.")
]
Runtimes = Annotated[
    str | None,
    typer.Option("--runtime", help="To time in, with commas, or all. Default: all that fit."),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="A Python file of methods, backbones or data sets."),
]


@contextmanager
def errors_shown(debug: bool, plugins: list[Path] | None = None) -> Iterator[list[str]]:
    """Register what plugin files define, and give the names of their methods; turn exceptions into
    a message and an exit status; a traceback only with --debug."""
    try:
        names: list[str] = []
        if plugins:
            from bench.plugins import load_plugin

            names = [name for file in plugins for name in load_plugin(file)]
        yield names
    except BenchError as error:
        if debug:
            raise
        from bench.terminal import show_error

        show_error(error, stderr())
        raise typer.Exit(error.exit_status) from error
    except KeyboardInterrupt as error:
        say("Interrupted. Finished runs are kept. Continue with:")
        say(f"  {shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}")
        raise typer.Exit(130) from error
    except typer.Exit:
        raise
    except Exception as error:
        if debug:
            raise
        from bench.plain_text import one_line

        say(f"Unexpected {type(error).__name__}: {one_line(str(error))}")
        say("This is a fault in bench; --debug shows where.")
        raise typer.Exit(1) from error


def chosen_folders(results_dir: Path | None, data_dir: Path | None = None) -> Folders:
    """Return where results and data lie: as given, or as the environment says."""
    return Folders(results_dir or default_results_dir(), data_dir or default_data_dir())


def options_in(given: Mapping[str, Any], model: type[Any]) -> dict[str, Any]:
    """Return the options of `model` among the arguments of a command, under its names for them."""
    from bench.engine.plan import parse_settings

    named = {_FIELDS.get(name, name): value for name, value in given.items() if value != []}
    named["settings"] = parse_settings(given["set_"] or [])
    return {name: value for name, value in named.items() if name in model.model_fields}


_FIELDS = {"source": "sources", "runtime": "runtimes", "time_limit": "time_limit_s"}


def show_table(rows: list[Row]) -> None:
    """Print the rows of runs on standard output, as wide as the terminal; nothing if there are
    none."""
    if not rows:
        return
    from bench.report.tables.results import rich_table

    console = stdout()
    console.print(rich_table(rows, width=console.width))


def show_failures(failures: Sequence[Failure], *, debug: bool = False) -> None:
    """Say which runs failed and why, and end with status 1 if there are any."""
    for failure in failures:
        lines = [f"Failed: {failure.run}: {failure.reason}", failure.hint, failure.trace * debug]
        say("\n".join(filter(None, lines)))
    if failures:
        raise typer.Exit(1)


def say(text: str) -> None:
    """Print a line, as it is, on standard error."""
    stderr().print(text, markup=False, highlight=False, soft_wrap=True)


def stdout() -> Any:
    """Return the console for tables and answers."""
    from bench.console import output_console

    return output_console()


def stderr() -> Any:
    """Return the console for progress, notes and errors."""
    from bench.console import error_console

    return error_console()
