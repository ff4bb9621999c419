"""The command line, thin: parse, call api, show. Owns no work and imports nothing heavy on top."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from bench.commands import backbone as backbone_group
from bench.commands import data, method, mlflow
from bench.commands.campaign import campaign
from bench.commands.evaluate import evaluate
from bench.commands.frame import (
    BackboneName,
    Compiled,
    DataDir,
    Dataset,
    Debug,
    DeviceName,
    Epochs,
    FinishedRuns,
    Normalise,
    OwnImages,
    Plugins,
    Pretrained,
    RecipeName,
    ResultsDir,
    Runtimes,
    Seeds,
    Settings,
    Shortcut,
    Threads,
    TrainingPrecision,
    Workers,
    chosen_folders,
    errors_shown,
    load_plugins,
    runtimes_named,
    show_failures,
    show_table,
    stderr,
    stdout,
)
from bench.commands.report import report
from bench.commands.sweep import sweep
from bench.errors import ConfigError
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
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    del version  # told by its callback, which needs no command


Axis = Literal["nflops", "macs", "latency_ms"]
Profile = Literal["smoke", "default", "publish"]
FileFormat = Literal["onnx", "safetensors"]


def run(
    methods: Annotated[
        str | None, typer.Option(help="Names with commas, or all. Default: resnet,sgad,blockdrop.")
    ] = None,
    dataset: Dataset = None,
    backbone: BackboneName = None,
    shortcut: Shortcut = None,
    recipe: RecipeName = None,
    epochs: Epochs = None,
    seeds: Seeds = None,
    device: DeviceName = None,
    pretrained: Pretrained = None,
    normalise: Normalise = None,
    set_: Settings = None,
    precision: TrainingPrecision = None,
    compiled: Compiled = None,
    held_out: Annotated[
        int | None, typer.Option(min=0, help="Training images kept out, watched by epoch.")
    ] = None,
    controls: Annotated[
        str | None,
        typer.Option(help="Beside dynamic methods: all, none, or names with commas."),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(help="A finished run that a control is made from; repeatable."),
    ] = None,
    latency: Annotated[
        Literal["smoke", "default", "publish", "off"] | None,
        typer.Option(help="How thoroughly to time. Default: smoke."),
    ] = None,
    threads: Threads = None,
    workers: Workers = None,
    runtime: Runtimes = None,
    data_dir: DataDir = None,
    results_dir: ResultsDir = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file with these options.")] = None,
    plugin: Plugins = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Do finished runs of this command again.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train, evaluate, count, time and record; then show the table and draw the Pareto plot.

    Without options this is the demo: embedded data, a dense network, SGAD and BlockDrop.

    * `bench run --methods resnet,sgad,blockdrop --dataset cifar10 --recipe fair`
    * `bench run --methods sgad --set sgad.d_max=0.8 --seeds 0,1,2`
    """
    with errors_shown(debug):
        from bench import api
        from bench.engine.plan import parse_settings
        from bench.options import run_options
        from bench.terminal import TerminalReporter

        load_plugins(plugin)
        options = run_options(
            {
                "methods": methods,
                "dataset": dataset,
                "backbone": backbone,
                "shortcut": shortcut,
                "recipe": recipe,
                "epochs": epochs,
                "seeds": seeds,
                "device": device,
                "pretrained": pretrained,
                "normalise": normalise,
                "settings": parse_settings(set_ or []),
                "precision": precision,
                "compiled": compiled,
                "held_out": held_out,
                "controls": controls,
                "sources": source or None,
                "latency": latency,
                "threads": threads,
                "workers": workers,
                "runtimes": runtime,
            },
            file=config,
        )
        folders = chosen_folders(results_dir, data_dir)
        with TerminalReporter(stderr()) as reporter:
            outcome = api.run(options, folders, reporter=reporter, forget=fresh)
        show_table(api.rows_of(outcome))
        figure = api.draw_run(outcome.records, folders)
        if figure is not None:
            stderr().print(f"Pareto plot: {figure}", markup=False, soft_wrap=True, highlight=False)
        show_failures(outcome.failures, debug=debug)


def results(
    format: Annotated[
        Literal["table", "csv", "json", "md", "latex"], typer.Option(help="Of the output.")
    ] = "table",
    filter: Annotated[
        str | None, typer.Option(help="KEY=VALUE with commas, like method=sgad,seed=0.")
    ] = None,
    results_dir: ResultsDir = None,
    debug: Debug = False,
) -> None:
    """Show the finished runs, one row per operating point.

    * `bench results --filter dataset=cifar10`
    * `bench results --format json > results.json`
    """
    with errors_shown(debug):
        from bench import api

        folders = chosen_folders(results_dir, None)
        rows, problems = api.results(folders, expression=filter)
        if not rows:
            why = api.why_none(folders, expression=filter)
            stderr().print(why, markup=False, highlight=False, soft_wrap=True)
        if format != "table":
            from bench.report.tables.results import render

            typer.echo(render(rows, format).rstrip("\n"))
        else:
            show_table(rows)
        for problem in problems:
            stderr().print(f"Not counted: {problem.name}: {problem.reason}", markup=False)


def pareto(
    dataset: Annotated[str | None, typer.Option(help="Default: the only one recorded.")] = None,
    x: Annotated[Axis, typer.Option(help="The cost axis.")] = "nflops",
    published: Annotated[
        bool, typer.Option("--published", help="Lay the papers' points beside ours.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="A .html, .png, .svg or .pdf file.")] = None,
    results_dir: ResultsDir = None,
    debug: Debug = False,
) -> None:
    """Draw accuracy against cost, with the Pareto front.

    * `bench pareto --dataset cifar10 --published --out pareto.html`
    """
    with errors_shown(debug):
        from bench import api

        path = api.pareto(
            chosen_folders(results_dir, None), x=x, dataset=dataset, published=published, out=out
        )
        typer.echo(path)


def latency(
    runs: FinishedRuns,
    batch_sizes: Annotated[
        str | None, typer.Option(help="With commas. Default: 1,256; with profile smoke 1.")
    ] = None,
    profile: Annotated[Profile, typer.Option(help="How thoroughly.")] = "default",
    runtime: Runtimes = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    dataset: OwnImages = None,
    data_dir: DataDir = None,
    results_dir: ResultsDir = None,
    plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Time finished runs on this machine, together, and add the numbers to their records.

    Then show the table and draw time against MACs, and where their orders disagree.

    * `bench latency sgad-cifar10 --profile publish`
    * `bench latency sgad-cifar10 --runtime eager,native`
    """
    with errors_shown(debug):
        from bench import api
        from bench.terminal import TerminalReporter

        load_plugins(plugin)
        folders = chosen_folders(results_dir, data_dir)
        with TerminalReporter(stderr()) as reporter:
            outcome = api.latency(
                runs,
                folders,
                batch_sizes=() if batch_sizes is None else _whole_numbers(batch_sizes),
                profile=profile,
                runtimes=runtimes_named(runtime),
                device=device,
                threads=threads,
                dataset=dataset,
                reporter=reporter,
            )
        show_table(api.rows_of(outcome))
        for figure in api.draw_latency(outcome.records, folders):
            stderr().print(f"Figure: {figure}", markup=False, soft_wrap=True, highlight=False)
        show_failures(outcome.failures, debug=debug)


def figures(
    dataset: Annotated[str | None, typer.Option(help="Default: the only one timed.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder. Default: RESULTS/figures.")] = None,
    results_dir: ResultsDir = None,
    debug: Debug = False,
) -> None:
    """Draw time against MACs, and where their orders disagree, from all runs that were timed.

    * `bench figures --dataset cifar10 --out paper/`
    """
    with errors_shown(debug):
        from bench import api

        folders = chosen_folders(results_dir, None)
        for path in api.figures(folders, dataset=dataset, out=out):
            typer.echo(path)


def export(
    run: Annotated[str, typer.Argument(help="Name or key of a finished run.")],
    format: Annotated[FileFormat, typer.Option(help="Of the file.")],
    point: Annotated[
        str | None, typer.Option(help="Operating point, like p=2. Default: the first.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="File, or folder with a slash at its end. Default: RESULTS/exports/."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="The folder of images, for a run on one of your own.")
    ] = None,
    data_dir: DataDir = None,
    results_dir: ResultsDir = None,
    plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Write the inference network of a run to a file, after checking it against the run.

    * `bench export sgad-cifar10 --format onnx`
    * `bench export cdl-cifar10 --format onnx --point p=1 --out cdl.onnx`
    """
    with errors_shown(debug):
        from bench import api
        from bench.terminal import TerminalReporter

        load_plugins(plugin)
        with TerminalReporter(stderr()) as reporter:
            exported = api.export(
                run,
                chosen_folders(results_dir, data_dir),
                file_format=format,
                point=point,
                out=out,
                dataset=dataset,
                reporter=reporter,
            )
        typer.echo(exported.sentence())


def list_(
    what: Annotated[
        str,
        typer.Argument(
            metavar="{methods|datasets|backbones|recipes|runtimes|runs}", show_default=False
        ),
    ],
    results_dir: ResultsDir = None,
    plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """List what there is to choose from.

    * `bench list methods`
    * `bench list methods --plugin my_method.py`
    * `bench list runs --results-dir results/reference`
    """
    with errors_shown(debug):
        from bench.commands import listings

        load_plugins(plugin)
        stdout().print(listings.listing(what, chosen_folders(results_dir, None).results))


def doctor(results_dir: ResultsDir = None, data_dir: DataDir = None, debug: Debug = False) -> None:
    """Say what works on this machine and what does not.

    * `bench doctor`
    * `bench doctor --data-dir /data/images`
    """
    with errors_shown(debug):
        from bench.commands import doctor as checks

        folders = chosen_folders(results_dir, data_dir)
        found = checks.checks(folders.results, folders.data)
        stdout().print(checks.probe_table(found))
        if any(check.needed and not check.works for check in found):
            raise typer.Exit(1)


# As the help lists them: first what makes runs, then what looks at them, then what serves both.
for command in (
    *(run, sweep, campaign),
    *(results, pareto, report, latency, figures, evaluate, export),
    *(list_, doctor),
):
    app.command(name=command.__name__.rstrip("_"))(command)
for group in (method, backbone_group, data, mlflow):
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2])


def main() -> None:
    """Run the command line."""
    app()


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise ConfigError(f"'{text}' is not a list of batch sizes.", hint="Like 1,32,256.")
    return numbers
