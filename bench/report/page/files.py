"""The report on disk: the page, and its tables and figures for papers.

    <folder>/report.html
             tables/<name>.md, .tex, .csv
             figures/<name>.pdf, .png; positions-<name>.png

Owns the names of the files; what is in them is the business of the other modules of the report.
"""

from __future__ import annotations

from pathlib import Path

from bench.report.behaviour.images import TestImages, pictures
from bench.report.figures.draw import draw, save_figure
from bench.report.page.document import Document
from bench.report.page.html import document_page
from bench.report.tables.cells import csv_text, latex, markdown
from bench.report.tables.results import render
from bench.storage import make_folder, write_atomically

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
    contents = {name: text.encode() for name, text in texts.items()} | {
        f"figures/positions-{name.removeprefix('behaviour-')}-{picture.end}.png": picture.png
        for name, behaviour in document.behaviours.items()
        if behaviour.maps is not None
        for picture in pictures(behaviour, images)
    }
    written = []
    for name, content in contents.items():
        written.append(make_folder((folder / name).parent) / Path(name).name)
        write_atomically(written[-1], content)
    figures = ((name, draw(chart)) for name, chart in document.charts.items())
    return written + [
        save_figure(figure, folder / "figures" / f"{name}{suffix}")
        for name, figure in figures
        for suffix in _FIGURE_KINDS
    ]


def table_files(document: Document) -> dict[str, str]:
    """Return the content of every file of tables, by its name."""
    files: dict[str, str] = {}
    for name, table in document.tables.items():
        texts = {"md": markdown(table), "tex": latex(table), "csv": csv_text(table)}
        if name == "results":
            texts["csv"] = render(document.rows, "csv")  # every key, in full precision
        files |= {f"{name}.{suffix}": text for suffix, text in texts.items()}
    return files
