"""The command line, thin: parse, call api, show. Owns no work and imports nothing heavy on top."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bench.errors import BenchError, ConfigError

app = typer.Typer(
    name="bench",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Benchmark dynamic inference: gated networks on one backbone, one recipe, one machine. "
    "They really skip, and error bars say who wins.",
)
data_app = typer.Typer(no_args_is_help=True, help="Fetch, import and verify data sets.")
mlflow_app = typer.Typer(no_args_is_help=True, help="Bring records into MLflow, and look at them.")
app.add_typer(data_app, name="data")
app.add_typer(mlflow_app, name="mlflow")

ResultsDir = Annotated[
    Path | None, typer.Option(help="Where records lie. Default: $BENCH_RESULTS or ./results.")
]
DataDir = Annotated[
    Path | None, typer.Option(help="Where data sets lie. Default: $BENCH_DATA or ./data.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="A Python file with methods; repeatable.")
]
Axis = Literal["nflops", "macs", "latency_ms"]
Profile = Literal["smoke", "default", "publish"]


@contextmanager
def errors_shown(debug: bool) -> Iterator[None]:
    """Turn exceptions into a message and an exit status; a traceback only with --debug."""
    try:
        yield
    except BenchError as error:
        if debug:
            raise
        from bench.terminal import show_error

        show_error(error, _stderr())
        raise typer.Exit(error.exit_status) from error
    except KeyboardInterrupt as error:
        _stderr().print("Interrupted. Finished runs are kept; the same command continues.")
        raise typer.Exit(130) from error
    except typer.Exit:
        raise
    except Exception as error:
        if debug:
            raise
        _stderr().print(f"Unexpected {type(error).__name__}: {error}", markup=False)
        _stderr().print("This is a fault in bench; --debug shows where.")
        raise typer.Exit(1) from error


@app.command()
def run(
    methods: Annotated[
        str | None, typer.Option(help="Names with commas, or all. Default: resnet,sgad,blockdrop.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="A name or a folder of images. Default: digits.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Default: resnet32, or resnet14 for embedded data.")
    ] = None,
    shortcut: Annotated[Literal["A", "B"] | None, typer.Option(help="At stage borders.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="smoke, quick, finetune, fair, paper. Default: quick.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's.")] = None,
    seeds: Annotated[str | None, typer.Option(help="With commas. Default: 0.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    pretrained: Annotated[
        Path | None, typer.Option(help="Weights of a trained ResNet to start from.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="METHOD.KEY=VALUE or train.KEY=VALUE; repeatable."),
    ] = None,
    precision: Annotated[Literal["fp32", "bf16"] | None, typer.Option()] = None,
    compiled: Annotated[
        bool | None, typer.Option("--compile", help="Train with torch.compile.")
    ] = None,
    held_out: Annotated[
        int | None, typer.Option(min=0, help="Training images kept out, watched by epoch.")
    ] = None,
    latency: Annotated[
        Literal["smoke", "default", "publish", "off"] | None,
        typer.Option(help="How thoroughly to time. Default: smoke."),
    ] = None,
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

        _load_plugins(plugin)
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
                "settings": parse_settings(set_ or []),
                "precision": precision,
                "compiled": compiled,
                "held_out": held_out,
                "latency": latency,
            },
            file=config,
        )
        folders = _folders(results_dir, data_dir)
        with TerminalReporter(_stderr()) as reporter:
            outcome = api.run(options, folders, reporter=reporter, forget=fresh)
        _show_table(api.rows_of(outcome))
        figure = api.draw_outcome(outcome, folders)
        if figure is not None:
            _stderr().print(f"Pareto plot: {figure}", soft_wrap=True, highlight=False)
        for failure in outcome.failures:
            _stderr().print(f"Failed: {failure.run}: {failure.reason}", markup=False)
        if outcome.failures:
            raise typer.Exit(1)


@app.command()
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

        rows, problems = api.results(_folders(results_dir, None), expression=filter)
        if format == "table":
            _show_table(rows)
        else:
            from bench.report.tables import render

            typer.echo(render(rows, format))
        for problem in problems:
            _stderr().print(f"Not counted: {problem.name}: {problem.reason}", markup=False)


@app.command()
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
            _folders(results_dir, None), x=x, dataset=dataset, published=published, out=out
        )
        typer.echo(path)


@app.command()
def latency(
    runs: Annotated[list[str], typer.Argument(help="Names or keys of finished runs.")],
    batch_sizes: Annotated[str, typer.Option(help="With commas.")] = "1,256",
    profile: Annotated[Profile, typer.Option(help="How thoroughly.")] = "default",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    dataset: Annotated[
        str | None, typer.Option(help="The folder of images, for runs on one of your own.")
    ] = None,
    data_dir: DataDir = None,
    results_dir: ResultsDir = None,
    plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """Time finished runs on this machine, together, and add the figures to their records.

    * `bench latency sgad-cifar10 --profile publish`
    """
    with errors_shown(debug):
        from bench import api
        from bench.terminal import TerminalReporter

        _load_plugins(plugin)
        with TerminalReporter(_stderr()) as reporter:
            outcome = api.latency(
                runs,
                _folders(results_dir, data_dir),
                batch_sizes=_whole_numbers(batch_sizes),
                profile=profile,
                device=device,
                threads=threads,
                dataset=dataset,
                reporter=reporter,
            )
        _show_table(api.rows_of(outcome))


@app.command(name="list")
def list_(
    what: Annotated[
        Literal["methods", "datasets", "backbones", "recipes", "runs"], typer.Argument()
    ],
    results_dir: ResultsDir = None,
    plugin: Plugins = None,
    debug: Debug = False,
) -> None:
    """List what there is to choose from."""
    with errors_shown(debug):
        from bench.report import listings

        _load_plugins(plugin)
        _stdout().print(listings.listing(what, _folders(results_dir, None).results))


@app.command()
def doctor(results_dir: ResultsDir = None, data_dir: DataDir = None, debug: Debug = False) -> None:
    """Say what works on this machine and what does not."""
    with errors_shown(debug):
        from bench.report import doctor as checks

        folders = _folders(results_dir, data_dir)
        _stdout().print(checks.report(folders.results, folders.data))


@data_app.command()
def fetch(name: str, data_dir: DataDir = None, debug: Debug = False) -> None:
    """Download a data set: `bench data fetch cifar10`."""
    with errors_shown(debug):
        from bench.data.load import fetch as fetch_data

        data = fetch_data(name, data_dir=_folders(None, data_dir).data)
        typer.echo(f"{data.info.title}: {len(data.train)} + {len(data.test)} images")


@data_app.command(name="import")
def import_(name: str, folder: Path, data_dir: DataDir = None, debug: Debug = False) -> None:
    """Import a folder with train/ and test/: `bench data import cifar10 FOLDER`."""
    with errors_shown(debug):
        from bench.data.importing import import_folder

        data = import_folder(name, folder, data_dir=_folders(None, data_dir).data)
        typer.echo(f"{data.info.title}: {len(data.train)} + {len(data.test)} images")


@data_app.command()
def verify(name: str, data_dir: DataDir = None, debug: Debug = False) -> None:
    """Check the files of a data set: `bench data verify cifar10`."""
    with errors_shown(debug):
        from bench.data.load import verify as verify_data

        reports = verify_data(name, data_dir=_folders(None, data_dir).data)
        for report in reports:
            typer.echo(f"{report.status}: {report.file or name}: {report.detail}")
        if not any(report.status in {"ok", "embedded"} for report in reports):
            raise typer.Exit(1)


@mlflow_app.command()
def sync(results_dir: ResultsDir = None, debug: Debug = False) -> None:
    """Log all records that MLflow lacks, each once."""
    with errors_shown(debug):
        from bench.records.store import RunStore
        from bench.records.tracking import sync as sync_records

        results = sync_records(RunStore(_folders(results_dir, None).results))
        for run_name, result in results.items():
            typer.echo(f"{run_name}: {result.detail}")
        if not all(result.logged for result in results.values()):
            raise typer.Exit(1)


@mlflow_app.command()
def ui(
    port: Annotated[int, typer.Option(min=1)] = 5000,
    results_dir: ResultsDir = None,
    debug: Debug = False,
) -> None:
    """Open MLflow's own pages on these results, until interrupted."""
    with errors_shown(debug):
        import subprocess

        from bench.records.tracking import default_uri

        uri = default_uri(_folders(results_dir, None).results)
        command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
        raise typer.Exit(subprocess.call([*command, "--port", str(port)]))


def main() -> None:
    """Run the command line."""
    app()


def _folders(results_dir: Path | None, data_dir: Path | None) -> Any:
    from bench.api import Folders, default_data_dir, default_results_dir

    return Folders(results_dir or default_results_dir(), data_dir or default_data_dir())


def _load_plugins(files: list[Path] | None) -> None:
    if files:
        from bench.engine.plan import METHODS

        for file in files:
            METHODS.add_file(file)


def _show_table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        _stderr().print("No runs yet. Start with: bench run")
        return
    from bench.report.tables import rich_table

    console = _stdout()
    console.print(rich_table(rows, width=console.width))


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise ConfigError(f"'{text}' is not a list of batch sizes.", hint="Like 1,32,256.")
    return numbers


def _stdout() -> Any:
    from rich.console import Console

    return Console()


def _stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)
