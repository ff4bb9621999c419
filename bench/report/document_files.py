"""The report on disk: the page, and its tables and figures for papers.

    <folder>/report.html
             tables/<name>.md, .tex, .csv
             figures/<name>.pdf, .png

Owns the names of the files; what is in them is the business of the other modules of the report.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bench.plain_text import tame
from bench.report.behaviour_figures import TestImages, behaviour_figure
from bench.report.canvas import save_figure
from bench.report.document import Document
from bench.report.document_page import document_page
from bench.report.figures import pareto_figure
from bench.report.position_figure import position_figure
from bench.report.rank_figure import rank_figure
from bench.report.report_table import csv_text, latex, markdown
from bench.report.tables import render
from bench.report.time_figure import time_figure
from bench.storage import make_folder, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE_FILE = "report.html"
_FIGURE_KINDS = (".pdf", ".png")


def write_report(
    document: Document,
    folder: Path,
    *,
    images: TestImages | None = None,
    images_reason: str = "",
) -> list[Path]:
    """Write the report into `folder`; return its files, the page first.

    Raises:
        ConfigError: plotly, matplotlib or jinja2 is not installed.
        StorageError: the folder is read-only, full or gone.
    """
    page = document_page(document, images=images, images_reason=images_reason)
    target = make_folder(folder) / PAGE_FILE
    write_atomically(target, page.encode())
    return [target, *_write_tables(document, folder), *_write_figures(document, folder, images)]


def table_files(document: Document) -> dict[str, str]:
    """Return the content of every file of tables, by its name."""
    files: dict[str, str] = {}
    for table in document.tables:
        texts = {"md": markdown(table), "tex": latex(table), "csv": csv_text(table)}
        if table.name == "results":
            texts["csv"] = render(document.rows, "csv")  # every key, in full precision
        files |= {f"{table.name}.{suffix}": text for suffix, text in texts.items()}
    return files


def _write_tables(document: Document, folder: Path) -> list[Path]:
    place = make_folder(folder / "tables")
    written = []
    for name, text in table_files(document).items():
        write_atomically(place / name, text.encode())
        written.append(place / name)
    return written


def _write_figures(document: Document, folder: Path, images: TestImages | None) -> list[Path]:
    place = folder / "figures"
    return [
        save_figure(figure, place / f"{name}{suffix}")
        for name, figure in _figures(document, images)
        for suffix in _FIGURE_KINDS
    ]


def _figures(document: Document, images: TestImages | None) -> Iterator[tuple[str, Figure]]:
    shown = [foreign.point for foreign in document.by_macs.published]
    yield "accuracy-macs", pareto_figure(document.rows, x="nflops", published=shown)
    if document.by_time is not None:
        yield "accuracy-time", pareto_figure(document.rows, x="latency_ms")
    for number, behaviour in enumerate(document.behaviours, start=1):
        name = f"behaviour-{number:02d}-{tame(behaviour.label)}"
        yield name, behaviour_figure(behaviour)
        if behaviour.maps is not None:
            yield name.replace("behaviour", "positions", 1), position_figure(behaviour, images)
    if document.ranking is not None:
        yield "ranks", rank_figure(document.ranking)
    if any(not samples.network.dense for samples in document.samples):
        yield "time-macs", time_figure(document.samples, without_samples=document.without_samples)
