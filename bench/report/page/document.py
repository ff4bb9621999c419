"""What a report says of one data set, and the report on disk; the Pareto plot alone as a page.

    <folder>/report.html
             tables/<name>.md, .tex, .csv
             figures/<name>.pdf, .png; positions-<name>.png

Owns which parts there are, what each is made of, and the names of the files. Pages need no network;
templates, style and scripts lie beside this, and everything that comes from records is escaped by
the templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from bench.plain_text import counted, one_line, plain, slug
from bench.records.published import PublishedPoint, canonical_name
from bench.records.record import RunRecord
from bench.records.store import Problem, RunStore
from bench.records.sweep import SweepRecord
from bench.report.behaviour.charts import behaviour_chart
from bench.report.behaviour.images import TestImages, pictures
from bench.report.behaviour.numbers import Behaviour, behaviours_of
from bench.report.data.row import NOT_APPLICABLE, Row, runtimes_of
from bench.report.data.study import Study
from bench.report.figures.chart import Chart, as_json
from bench.report.figures.draw import write_chart
from bench.report.latency import latency_charts
from bench.report.pareto.chart import pareto_chart, pareto_data
from bench.report.tables.cells import ReportTable, csv_text, latex, markdown, table_of
from bench.report.tables.provenance import provenance_tables
from bench.report.tables.results import (
    dynamics_table,
    published_cells,
    published_table,
    render,
    results_table,
)
from bench.report.verdicts.costs import MACS, Axis
from bench.report.verdicts.fronts import front_points, front_table, pairs_of, pairs_table
from bench.report.verdicts.tables import best_table, verdict_table
from bench.report.verdicts.verdicts import verdicts_of
from bench.report.verdicts.words import finding, gain_words, paragraph, summary, why
from bench.storage import make_folder, write_atomically


class Document:
    """A report on `records`, all of one data set; arrays are read from `store`. `images` are the
    test images, or why they are not available.

    `tables` and `charts` are by the names of their files, in the order of the page: charts of
    accuracy against cost, latency, then behaviour; `pictures` by those of behaviour.

    Raises:
        ConfigError: matplotlib is not installed.
    """

    def __init__(
        self,
        records: Sequence[RunRecord],
        store: RunStore,
        *,
        problems: Sequence[Problem] = (),
        sweeps: Sequence[SweepRecord] = (),
        published: Sequence[PublishedPoint] = (),
        images: TestImages | str = "",
    ) -> None:
        self.study = Study(records, store)
        self.rows = self.study.rows
        self.dataset = self.rows[0].dataset if self.rows else ""
        titles = [record.dataset_title for record in records if record.dataset_title]
        self.title = one_line(titles[0] if titles else self.dataset)
        self.synthetic = any(row.synthetic for row in self.rows)
        self.verdicts = sorted(
            verdicts_of(self.study), key=lambda one: (one.network.control, one.network.label)
        )
        shown, self.behaviours_left_out = behaviours_of(self.study)
        self.behaviours = {
            f"behaviour-{place:02d}-{slug(one.label)}": one
            for place, one in enumerate(shown, start=1)
        }
        self.pictures = {name: pictures(one, images) for name, one in self.behaviours.items()}
        self.images_reason = images if isinstance(images, str) else ""
        known = {record.run for record in records}
        swept = [sweep for sweep in sweeps if any(trial.run in known for trial in sweep.trials)]
        tables = [*self._results(published), *provenance_tables(self.study, problems, swept)]
        self.tables = {table.name: table for table in tables if table.lines}
        self.charts = {
            **self._costs(published),
            **latency_charts(self.study),
            **{name: behaviour_chart(one) for name, one in self.behaviours.items()},
        }

    @property
    def finding(self) -> str:
        return self.charts["accuracy-macs"].title

    @property
    def scope(self) -> str:
        """What the report covers, in one sentence."""
        done = {row.run for row in self.rows if row.status == "finished"}
        failed = {r.run for r in self.rows if r.status != NOT_APPLICABLE} - done
        rest = f", {len(failed)} failed or stopped" if failed else ""
        seeds = ", ".join(map(str, sorted({row.seed for row in self.rows})))
        recipes = ", ".join(sorted({row.recipe for row in self.rows}))
        return f"{counted(len(done), 'finished run')}{rest}; seeds: {seeds}; recipes: {recipes}."

    def _costs(self, published: Sequence[PublishedPoint]) -> dict[str, Chart]:
        """Return the charts of accuracy against cost, with the finding of the verdicts."""
        ours = {canonical_name(row.backbone) for row in self.rows}
        beside = [p for p in published if p.plottable and canonical_name(p.backbone) in ours]
        by_macs = pareto_data(self.rows, x="nflops", published=beside)
        charts = {"accuracy-macs": pareto_chart(by_macs, title=finding(self.verdicts, MACS))}
        for runtime in runtimes_of(self.rows):
            by_time = pareto_data(self.rows, x="latency_ms", runtime=runtime)
            if by_time.placed:
                title = finding(self.verdicts, Axis(1, runtime))
                charts[f"accuracy-time-{slug(runtime)}"] = pareto_chart(by_time, title=title)
        return charts

    def _results(self, published: Sequence[PublishedPoint]) -> list[ReportTable]:
        """Return all tables but those of provenance, in the order of the page."""
        groups = self.study.groups
        return [
            best_table(self.verdicts),
            verdict_table(self.verdicts),
            front_table(front_points(self.study)),
            pairs_table(pairs_of(self.study)),
            results_table(self.rows),
            published_table(published, groups),
            dynamics_table(sorted(groups, key=lambda one: (one.control, one.label))),
        ]


def write_report(document: Document, folder: Path) -> list[Path]:
    """Write the report into `folder`; return its files, the page first.

    Raises:
        ConfigError: matplotlib is not installed.
        StorageError: the folder is read-only, full or gone.
    """
    texts = {"report.html": document_page(document)}
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
        paths = (folder / "figures" / f"{name}{kind}" for kind in (".pdf", ".png"))
        written += write_chart(chart, *paths)
    return written


def table_files(document: Document) -> dict[str, str]:
    """Return the content of every file of tables, by its name."""
    found: dict[str, str] = {}
    for name, table in document.tables.items():
        # Of the results every key, in full precision.
        as_csv = render(document.rows, "csv") if name == "results" else csv_text(table)
        texts = {"md": markdown(table), "tex": latex(table), "csv": as_csv}
        found |= {f"{name}.{suffix}": text for suffix, text in texts.items()}
    return found


def document_page(document: Document) -> str:
    """Return the page."""
    return _rendered(
        "document.html",
        document.charts,
        document=document,
        heading=f"skipbench on {document.title or 'no data set'}",
        tables=document.tables,
        summary=summary(document.verdicts),
        verdicts={
            name: members
            for name, control in (("Methods", False), ("Controls", True))
            if (members := [o for o in document.verdicts if o.network.control is control])
        },
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
    if len(data.shown) < len(data.placed):
        ours = results_table([row for placed in data.shown for row in placed.group.rows])
        every = f"All {len(data.placed):,} networks: bench results."
        ours = replace(ours, notes=(every, *ours.notes))
    papers = [published_cells(foreign.point) for foreign in data.published]
    said = "As their sources print them: other recipes, other ways of counting."
    return _rendered(
        "pareto.html",
        {"pareto": chart},
        title=chart.title,
        synthetic=data.synthetic,
        summary=f"{counted(len(data.placed), 'network')}: test accuracy against {data.x_label}.",
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
