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
from bench.report.behaviour.charts import behaviour_chart
from bench.report.behaviour.images import TestImages, position_figure
from bench.report.data.row import file_suffix
from bench.report.figures.draw import draw, save_figure
from bench.report.latency.charts import rank_chart, time_chart
from bench.report.page.document import Document
from bench.report.page.html import document_page
from bench.report.pareto.chart import chart_of
from bench.report.tables.cells import csv_text, latex, markdown
from bench.report.tables.results import render
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
        ConfigError: matplotlib or jinja2 is not installed.
        StorageError: the folder is read-only, full or gone.
    """
    page = document_page(document, images=images, images_reason=images_reason)
    texts = {PAGE_FILE: page}
    texts |= {f"tables/{name}": text for name, text in table_files(document).items()}
    written = []
    for name, text in texts.items():
        target = make_folder((folder / name).parent) / Path(name).name
        write_atomically(target, text.encode())
        written.append(target)
    return written + [
        save_figure(figure, folder / "figures" / f"{name}{suffix}")
        for name, figure in _figures(document, images)
        for suffix in _FIGURE_KINDS
    ]


def table_files(document: Document) -> dict[str, str]:
    """Return the content of every file of tables, by its name."""
    files: dict[str, str] = {}
    for table in document.tables:
        texts = {"md": markdown(table), "tex": latex(table), "csv": csv_text(table)}
        if table.name == "results":
            texts["csv"] = render(document.rows, "csv")  # every key, in full precision
        files |= {f"{table.name}.{suffix}": text for suffix, text in texts.items()}
    return files


def _figures(document: Document, images: TestImages | None) -> Iterator[tuple[str, Figure]]:
    yield "accuracy-macs", draw(chart_of(document.by_macs))
    for data in document.by_time:
        yield f"accuracy-time{file_suffix(data.runtime)}", draw(chart_of(data))
    for number, behaviour in enumerate(document.behaviours, start=1):
        name = f"{number:02d}-{tame(behaviour.label)}"
        yield f"behaviour-{name}", draw(behaviour_chart(behaviour))
        if behaviour.maps is not None:
            yield f"positions-{name}", position_figure(behaviour, images)
    for ranking in document.rankings:
        yield f"ranks{file_suffix(ranking.runtime)}", draw(rank_chart(ranking))
    for calls in document.calls:
        if any(not samples.network.dense for samples in calls.samples):
            chart = time_chart(calls.samples, without_samples=calls.missing)
            yield f"time-macs{file_suffix(calls.runtime)}", draw(chart)
