"""The commands about finished runs and about this installation, thin: parse, call, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.commands.frame import (
    FinishedRuns,
    OwnImages,
    Point,
    command,
    say,
    show_failures,
    show_table,
)
from bench.console import stderr, stdout
from bench.errors import ConfigError
from bench.folders import Folders

OneDataset = Annotated[str | None, typer.Option(help="Default: the only one recorded.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


@command("results_dir")
def results(
    folders: Folders,
    format: Annotated[
        Literal["table", "csv", "json", "md", "latex"], typer.Option(help="Of the output.")
    ] = "table",
    filter: Annotated[
        str | None, typer.Option(help="KEY=VALUE with commas, like method=sgad,seed=0.")
    ] = None,
) -> None:
    """Show the finished runs, one row per operating point.

    * `bench results --filter dataset=cifar10`
    * `bench results --format json > results.json`
    """
    from bench import drawing

    rows, problems = drawing.results(folders, expression=filter)
    if not rows:
        none = drawing.no_runs_in(folders.results)
        say(f"No run matches '{filter}'." if filter else f"{none} Start with: bench run")
    if format != "table":
        from bench.report.tables.results import render

        typer.echo(render(rows, format).rstrip("\n"))
    else:
        show_table(rows)
    for problem in problems:
        stderr().print(f"Not counted: {problem.name}: {problem.reason}", markup=False)


@command("results_dir")
def pareto(
    folders: Folders,
    dataset: OneDataset = None,
    x: Annotated[
        Literal["nflops", "macs", "latency_ms"], typer.Option(help="The cost axis.")
    ] = "nflops",
    published: Annotated[
        bool, typer.Option("--published", help="Lay the papers' points beside ours.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="A .html, .png, .svg or .pdf file.")] = None,
) -> None:
    """Draw accuracy against cost, with the Pareto front.

    * `bench pareto --dataset cifar10 --published --out pareto.html`
    """
    from bench import drawing

    typer.echo(drawing.pareto(folders, x=x, dataset=dataset, published=published, out=out))


@command("data_dir", "results_dir")
def report(
    folders: Folders,
    dataset: OneDataset = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder. Default: RESULTS/report/DATASET.")
    ] = None,
) -> None:
    """Write one page about all runs on a data set, and its tables and figures for papers.

    The page needs no network. It says first which methods beat a static network of their cost.

    * `bench report --dataset cifar10 --out report/`
    """
    from bench import drawing

    page, *others = drawing.report(folders, dataset=dataset, out=out)
    typer.echo(page)
    say(f"Also written: {len(others)} tables and figures")


@command("data_dir", "results_dir", "plugin")
def latency(
    folders: Folders,
    debug: bool,
    runs: FinishedRuns,
    batch_sizes: Annotated[
        str | None, typer.Option(help="With commas. Default: 1,256; with profile smoke 1.")
    ] = None,
    profile: Annotated[
        Literal["smoke", "default", "publish"], typer.Option(help="How thoroughly.")
    ] = "default",
    runtime: Annotated[
        str | None, typer.Option(help="With commas, or all. Default: all that fit.")
    ] = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    dataset: OwnImages = None,
) -> None:
    """Time finished runs on this machine, together, and add the numbers to their records.

    Then show the table and draw time against MACs.

    * `bench latency sgad-cifar10 --profile publish`
    * `bench latency reference --runtime native`: the networks that the project keeps
    """
    from bench import api, drawing
    from bench.terminal import TerminalReporter

    with TerminalReporter() as reporter:
        outcome = api.latency(
            runs,
            folders,
            batch_sizes=_whole_numbers(batch_sizes or ""),
            profile=profile,
            runtimes=[name.strip() for name in (runtime or "").split(",") if name.strip()],
            device=device,
            threads=threads,
            dataset=dataset,
            reporter=reporter,
        )
    show_table(api.rows_of(outcome))
    for figure in drawing.draw_latency(outcome.records, folders):
        say(f"Figure: {figure}")
    show_failures(outcome.failures, debug=debug)


def _whole_numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(f"'{text}' is not a list of batch sizes.", hint="Like 1,32,256.")
    return [int(part) for part in parts]


@command("data_dir", "results_dir", "plugin")
def evaluate(
    folders: Folders,
    debug: bool,
    runs: FinishedRuns,
    device: Device = "auto",
    dataset: OwnImages = None,
) -> None:
    """Evaluate finished runs again from their weights, and add what their records lack.

    Records of earlier versions get what is measured today: gradients per block, maps of positions.
    Numbers on record stay; a run that does not come out as recorded is refused.

    * `bench evaluate sgad-cifar10 sact-cifar10`
    * `bench evaluate my_method-photos --dataset photos/`
    """
    from bench import api
    from bench.terminal import TerminalReporter

    with TerminalReporter() as reporter:
        outcome = api.evaluate(runs, folders, device=device, dataset=dataset, reporter=reporter)
    show_table(api.rows_of(outcome))
    show_failures(outcome.failures, debug=debug)


@command("data_dir", "results_dir", "plugin")
def export(
    folders: Folders,
    run: Annotated[str, typer.Argument(help="Name or key of a finished run.")],
    format: Annotated[Literal["onnx", "safetensors"], typer.Option(help="Of the file.")],
    point: Point = None,
    out: Annotated[
        str | None,
        typer.Option(help="File, or existing folder. Default: RESULTS/exports/."),
    ] = None,
    dataset: OwnImages = None,
) -> None:
    """Write the inference network of a run to a file, after checking it against the run.

    * `bench export sgad-cifar10 --format onnx`
    * `bench export cdl-cifar10 --format onnx --point p=1 --out cdl.onnx`
    """
    from bench import api
    from bench.terminal import TerminalReporter

    with TerminalReporter() as reporter:
        exported = api.export(
            run,
            folders,
            file_format=format,
            point=point,
            out=out,
            dataset=dataset,
            reporter=reporter,
        )
    typer.echo(exported.sentence())


@command("results_dir", "plugin")
def list_(
    folders: Folders,
    what: Annotated[
        str,
        typer.Argument(
            metavar="{methods|datasets|backbones|recipes|runtimes|runs}", show_default=False
        ),
    ],
) -> None:
    """List what there is to choose from.

    * `bench list methods`
    * `bench list methods --plugin my_method.py`
    * `bench list runs --results-dir results/reference`
    """
    from bench.commands import listings

    stdout().print(listings.listing(what, folders.results))


@command("data_dir", "results_dir")
def doctor(
    folders: Folders,
) -> None:
    """Say what works on this machine and what does not.

    * `bench doctor`
    * `bench doctor --data-dir /data/images`
    """
    from bench.commands import doctor as checks

    found = checks.checks(folders.results, folders.data)
    stdout().print(checks.probe_table(found))
    if any(check.needed and not check.works for check in found):
        raise typer.Exit(1)
