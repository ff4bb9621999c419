"""Tables and figures of finished runs: which records go into one, and where the file lies.

Owns no drawing itself: report does that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from bench.errors import BenchError, ConfigError
from bench.folders import Folders
from bench.plain_text import slug
from bench.records.published import load_published
from bench.records.record import RunRecord
from bench.records.store import Problem, RunStore
from bench.records.sweep import SweepRecord, load_sweeps
from bench.report.behaviour.images import TestImages
from bench.report.data.row import Row, filter_rows
from bench.report.data.rows import rows
from bench.report.data.study import Study
from bench.report.figures.draw import write_chart
from bench.report.latency import latency_charts
from bench.report.page.document import Document, pareto_page, write_report
from bench.report.pareto.chart import X, pareto_chart, pareto_data
from bench.report.pareto.sweep import front_chart, front_lines, sweep_front
from bench.storage import chosen_with_out, make_folder, write_atomically


def can_draw() -> bool:
    """Whether figures can be drawn here; a run works without them."""
    return find_spec("matplotlib") is not None


def results(folders: Folders, *, expression: str | None = None) -> tuple[list[Row], list[Problem]]:
    """Return one row per operating point of all records, and the records that cannot be read.

    Raises:
        ConfigError: `expression` is not KEY=VALUE or names an unknown key.
    """
    problems = list[Problem]()
    found = rows(RunStore(folders.results).read_each(problems))
    return found if expression is None else filter_rows(found, expression), problems


def pareto(
    folders: Folders,
    *,
    x: X = "nflops",
    dataset: str | None = None,
    published: bool = False,
    out: Path | None = None,
) -> Path:
    """Draw accuracy against cost of all finished runs on one data set; return the file.

    Raises:
        ConfigError: there is nothing to draw, or several data sets and none chosen.
    """
    found, _ = results(folders)
    names = [row.dataset for row in found if row.accuracy is not None]
    name = _one_dataset(names, dataset, folders.results)
    chosen = [row for row in found if row.dataset == name]
    target = out or folders.results / "figures" / f"pareto-{slug(name)}-{x}.html"
    backbones = sorted({row.backbone for row in chosen}) if published else []
    papers = [p for backbone in backbones for p in load_published(name, backbone) if p.plottable]
    with chosen_with_out(out):
        if target.suffix != ".html":
            write_chart(pareto_chart(pareto_data(chosen, x=x, published=papers)), target)
        else:
            make_folder(target.parent)
            write_atomically(target, pareto_page(chosen, papers, x=x).encode())
    return target


def report(folders: Folders, *, dataset: str | None = None, out: Path | None = None) -> list[Path]:
    """Write the report on one data set: the page, its tables and figures; return the files.

    Pictures of images are in it where the data set is at hand without the network.

    Raises:
        ConfigError: there are no finished runs, or several data sets and none is chosen.
    """
    document = document_in(folders.results, dataset=dataset, data_dir=folders.data)
    folder = out or folders.results / "report" / slug(document.dataset)
    with chosen_with_out(out):
        return write_report(document, folder)


def document_in(
    results_dir: Path, *, dataset: str | None = None, data_dir: Path | None = None
) -> Document:
    """Return what the report on one data set says, with pictures of the images in `data_dir`.

    Raises:
        ConfigError: there are no finished runs, or several data sets and none is chosen.
    """
    store = RunStore(results_dir)
    records, problems = store.load_all()
    measured = [record.spec.dataset.name for record in records if record.points]
    name = _one_dataset(measured, dataset, results_dir)
    chosen = [record for record in records if record.spec.dataset.name == name]
    sweeps, broken = load_sweeps(results_dir)
    return Document(
        chosen,
        store,
        problems=[*problems, *broken],
        sweeps=sweeps,
        published=load_published(name),
        images="" if data_dir is None else _test_images(chosen, data_dir),
    )


def _test_images(records: Sequence[RunRecord], data_dir: Path) -> TestImages | str:
    """Return the test images that the records are about, or why there are none.

    A name that is no built-in data set is a folder's: no record is followed to one.
    """
    from bench.data.load import is_named, load_dataset  # brings torch

    spec = records[0].spec.dataset
    if not is_named(spec.name):
        return "the data set is a folder whose place no record keeps."
    try:
        data = load_dataset(spec.name, data_dir=data_dir, network="forbidden")
    except BenchError:
        return f"the images are not in {data_dir}; fetch them with bench data fetch."
    if {record.spec.dataset.fingerprint for record in records} != {data.info.fingerprint}:
        return "the data set at hand is not the one of the runs."
    if not data.test.held_bytes:
        return "the images are too many to be held in memory."
    test = data.test.held("cpu")
    return TestImages(test.images_nhwc.numpy(), test.labels_n.numpy(), data.info.class_names)


def draw_latency(records: Sequence[RunRecord], folders: Folders) -> list[Path]:
    """Draw time against MACs of timed runs, per data set; return the files drawn."""
    if not can_draw():
        return []
    folder, store = folders.results / "figures", RunStore(folders.results)
    drawn = []
    for dataset in dict.fromkeys(record.spec.dataset.name for record in records):
        chosen = [record for record in records if record.spec.dataset.name == dataset]
        for name, chart in latency_charts(Study(chosen, store)).items():
            drawn += write_chart(chart, folder / f"{name}-{slug(dataset)}.png")
    return drawn


def _one_dataset(names: Iterable[str], chosen: str | None, results_dir: Path) -> str:
    """Return the data set to draw: the one chosen, or the only one.

    Raises:
        ConfigError: it is not among `names`, or there are several and none is chosen.
    """
    known = sorted(set(names))
    if not known:
        raise ConfigError(no_runs_in(results_dir), hint="Start with: bench run.")
    if (chosen or known[0]) not in known or (chosen is None and len(known) > 1):
        said = "Several data sets are recorded: choose with --dataset."
        if chosen:
            said = f"There are no such runs on '{chosen}'."
        raise ConfigError(said, hint=f"Recorded: {', '.join(known)}.")
    return chosen or known[0]


def no_runs_in(results_dir: Path) -> str:
    """Say that nothing is recorded, and whether the folder is there."""
    missing = "" if results_dir.exists() else ", which does not exist"
    return f"There are no finished runs in {results_dir}{missing}."


def draw_run(records: Sequence[RunRecord], folders: Folders) -> Path | None:
    """Draw the runs of one command into the results folder; return the file, if one was drawn."""
    found = [row for row in rows(records) if row.accuracy is not None]
    if not found or not can_draw():
        return None
    target = folders.results / "figures" / f"run-{slug(found[0].dataset)}.png"
    write_chart(pareto_chart(pareto_data(found, x="nflops")), target)
    return target


class DrawnFront(NamedTuple):
    """The front of a sweep in lines to print, and its figure, if one was drawn."""

    lines: list[str]
    figure: Path | None


def draw_sweep(sweep: SweepRecord, records: Sequence[RunRecord], folders: Folders) -> DrawnFront:
    """Return the front of a sweep, drawn into the results folder."""
    found = sweep_front(sweep, Study(records, RunStore(folders.results)))
    if found is None:
        return DrawnFront([], None)
    target = folders.results / "figures" / f"sweep-{slug(sweep.name)}.png"
    if can_draw():
        write_chart(front_chart(found), target)
    return DrawnFront(front_lines(found), target if can_draw() else None)
