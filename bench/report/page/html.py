"""The report on disk, and the Pareto plot alone: pages of HTML that need no network.

    <folder>/report.html
             tables/<name>.md, .tex, .csv
             figures/<name>.pdf, .png; positions-<name>.png

Owns the names of the files, and how a Document becomes HTML; templates, style and scripts lie
beside this, and everything that comes from records is escaped by the templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from bench.plain_text import counted, plain
from bench.records.published import PublishedPoint
from bench.report.behaviour.numbers import Behaviour
from bench.report.data.row import Row
from bench.report.figures.chart import Chart, as_json
from bench.report.figures.draw import write_chart
from bench.report.page.document import Document
from bench.report.pareto.chart import pareto_chart
from bench.report.pareto.data import pareto_data
from bench.report.tables.cells import csv_text, latex, markdown, table_of
from bench.report.tables.results import published_cells, render, results_table
from bench.report.verdicts.words import gain_words, paragraph, summary, why
from bench.storage import make_folder, write_atomically

PAGE_FILE = "report.html"
_FIGURE_KINDS = (".pdf", ".png")


def write_report(document: Document, folder: Path) -> list[Path]:
    """Write the report into `folder`; return its files, the page first.

    Raises:
        ConfigError: matplotlib is not installed.
        StorageError: the folder is read-only, full or gone.
    """
    texts = {PAGE_FILE: document_page(document)}
    texts |= {f"tables/{name}": text for name, text in table_files(document).items()}
    contents = {name: text.encode() for name, text in texts.items()} | {
        f"figures/positions-{name.removeprefix('behaviour-')}-{picture.end}.png": picture.png
        for name, of in document.pictures.items()
        if document.behaviours[name].maps is not None
        for picture in of
    }
    written = []
    for name, content in contents.items():
        written.append(make_folder((folder / name).parent) / Path(name).name)
        write_atomically(written[-1], content)
    for name, chart in document.charts.items():
        paths = (folder / "figures" / f"{name}{kind}" for kind in _FIGURE_KINDS)
        written += write_chart(chart, *paths)
    return written


def table_files(document: Document) -> dict[str, str]:
    """Return the content of every file of tables, by its name."""
    files: dict[str, str] = {}
    for name, table in document.tables.items():
        # Of the results every key, in full precision.
        as_csv = render(document.rows, "csv") if name == "results" else csv_text(table)
        texts = {"md": markdown(table), "tex": latex(table), "csv": as_csv}
        files |= {f"{name}.{suffix}": text for suffix, text in texts.items()}
    return files


def document_page(document: Document) -> str:
    """Return the page."""
    kinds = {
        name: [one for one in document.verdicts if one.network.control is control]
        for name, control in (("Methods", False), ("Controls", True))
    }
    return _rendered(
        "document.html",
        document.charts,
        document=document,
        heading=f"skipbench on {document.title or document.dataset or 'no data set'}",
        tables=document.tables,
        summary=summary(document.verdicts),
        verdicts={name: members for name, members in kinds.items() if members},
        paragraph=paragraph,
        gain=gain_words,
        why=why,
        sentences={name: _sentences(one) for name, one in document.behaviours.items()},
    )


def _sentences(behaviour: Behaviour) -> list[str]:
    """Return what is said below the figure of a network."""
    known = any(shown.share_n is not None for shown in behaviour.points)
    same = ["All images cost the same."] if known and behaviour.extremes is None else []
    return [*behaviour.missing, *same]


def pareto_page(
    rows: Sequence[Row], published: Sequence[PublishedPoint] = (), *, x: str = "nflops"
) -> str:
    """Return a page of the plot alone: what to know before reading it, and all numbers.

    Raises:
        UnknownNameError: there is no such axis.
    """
    data = pareto_data(rows, x=x, published=published)
    chart = pareto_chart(data)
    ours = results_table(rows)
    if data.crowded:
        ours = results_table([row for placed in data.in_full for row in placed.group.rows])
        every = f"All {len(data.placed):,} networks: bench results."
        ours = replace(ours, notes=(every, *ours.notes))
    papers = [published_cells(foreign.point) for foreign in data.published]
    said = "As their sources print them: other recipes, other ways of counting."
    return _rendered(
        "pareto.html",
        {"pareto": chart},
        title=chart.title,
        synthetic=data.synthetic,
        summary=f"{counted(len(data.placed), 'network')} on {data.dataset or 'no data set'}: "
        f"test accuracy against {data.x_label}.",
        ours=ours,
        published=table_of("published", said, papers),
    )


def _rendered(template: str, charts: Mapping[str, Chart], **values: Any) -> str:
    """Return a page with its charts, style and scripts in it."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_tamed,
        loader=FunctionLoader(_read),
    )
    data = {name: as_json(chart) for name, chart in charts.items()}
    # No HTML in it can end the script early.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return environment.get_template(template).render(
        css=Markup(_read("page.css")),
        files=[Markup(_read(name)) for name in ("chart.js", "tables.js")],
        charts=charts,
        data=Markup(text),
        **values,
    )


def _tamed(value: Any) -> Any:
    """Return a text with what is not printed written out; what is HTML already stays."""
    is_text = isinstance(value, str) and not hasattr(value, "__html__")
    return plain(value) if is_text else value


def _read(name: str) -> str:
    return files("bench.report.page").joinpath(name).read_text(encoding="utf-8")
