"""What all commands share: options, folders, how tables and errors are shown.

Owns no command and no work; imports nothing heavy on top.
"""

from __future__ import annotations

import functools
import inspect
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
from rich.markup import escape

from bench.console import stderr, stdout
from bench.errors import BenchError
from bench.folders import Folders, default_data_dir, default_results_dir
from bench.options import RunOptions, flag_of, parse_settings, read_options
from bench.spaces import parse_params

if TYPE_CHECKING:
    from bench.engine.supervising import Failure
    from bench.report.data.row import Row

Command = Callable[..., None]

FinishedRuns = Annotated[
    list[str],
    typer.Argument(help="Finished runs by name, key, or the beginning of either: all that match."),
]
OwnImages = Annotated[str | None, typer.Option(help="The folder of images of runs on a folder.")]
Point = Annotated[str | None, typer.Option(help="Operating point, like p=2. Default: the first.")]

_SHARED: Mapping[str, Any] = {
    "data_dir": Annotated[
        Path | None, typer.Option(help="Where data sets lie. Default: $BENCH_DATA or ./data.")
    ],
    "results_dir": Annotated[
        Path | None, typer.Option(help="Where records lie. Default: $BENCH_RESULTS or ./results.")
    ],
    "config": Annotated[Path | None, typer.Option(help="A YAML file with these options.")],
    "plugin": Annotated[
        list[Path] | None, typer.Option(help="A Python file of methods, backbones or data sets.")
    ],
    "debug": Annotated[
        bool | None, typer.Option("--debug", help="Show the traceback of an error.")
    ],
}
_REPEATABLE = ("settings", "params", "sources")


def command(*shared: str, options: type[RunOptions] | None = None) -> Callable[[Command], Command]:
    """Make a command of a function: its parameters become options, beside --debug and `shared`.

    The fields of `options` that have a description are options too. What the function is handed
    instead, where it has a parameter of that name: `options`, the `folders`, the names of the
    `plugged` methods, and `debug`. Errors become a message and an exit status.
    """

    def made(work: Command) -> Command:
        own = inspect.signature(work, eval_str=True).parameters
        listed = [] if options is None else _options_of(options)
        listed += [p for p in own.values() if p.name not in _HANDED]
        listed += [_option(name, _SHARED[name]) for name in (*shared, "debug")]

        @functools.wraps(work)
        def run(**given: Any) -> None:
            debug, results, data = (given.get(n) for n in ("debug", "results_dir", "data_dir"))
            with _errors_shown(given.get("plugin"), debug=bool(debug)) as plugged:
                handed: dict[str, Any] = {"debug": bool(debug), "plugged": plugged}
                handed["folders"] = Folders(
                    results or default_results_dir(), data or default_data_dir()
                )
                if options is not None:
                    handed["options"] = _chosen(options, given)
                work(**{name: handed[name] if name in _HANDED else given[name] for name in own})

        signature = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in listed])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in listed}
        return run

    return made


_HANDED = ("options", "folders", "plugged", "debug")


def _option(name: str, annotation: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=annotation)


def _options_of(model: type[RunOptions]) -> list[inspect.Parameter]:
    """Return an option for each field that has a description; the model checks its limits."""
    return [
        _option(
            name,
            Annotated[
                list[str] | None if name in _REPEATABLE else _kind(field.annotation) | None,
                typer.Option(flag_of(name), help=field.description),
            ],
        )
        for name, field in model.model_fields.items()
        if field.description
    ]


def _kind(annotation: Any) -> Any:
    """Return what an option of a field takes: words to choose from, a number, a path, or text."""
    parts = get_args(annotation) if NoneType in get_args(annotation) else (annotation,)
    if words := [w for p in parts for one in (p, *get_args(p)) for w in _words(one) if w]:
        return Literal[tuple(words)]
    plain = [get_args(p)[0] if get_origin(p) is Annotated else p for p in parts]
    return next((kind for kind in (bool, int, float, Path) if kind in plain), str)


def _words(annotation: Any) -> Sequence[Any]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _chosen(model: type[RunOptions], given: Mapping[str, Any]) -> RunOptions:
    """Return the options given on the command line, laid over those of the file of --config."""
    told = {n: given[n] for n in model.model_fields if given.get(n) not in (None, [])}
    told["settings"] = parse_settings(told.get("settings", []))
    if "params" in told:
        told["params"] = {name: str(space) for name, space in parse_params(told["params"]).items()}
    return read_options(model, told, file=given["config"])


@contextmanager
def _errors_shown(plugins: Sequence[Path] | None, *, debug: bool) -> Iterator[list[str]]:
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
        said = escape(str(error))
        stderr().print(f"[bold red]Error:[/] {said}", highlight=False, soft_wrap=True)
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
