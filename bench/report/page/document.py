"""What a report says of one data set: all its tables, figures and sentences, from records alone.

Owns which parts there are and what each is made of; owns no page (html.py) and no data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.plain_text import counted, one_line, slug
from bench.records.published import PublishedPoint, canonical_name
from bench.records.record import RunRecord
from bench.records.store import Problem, RunStore
from bench.records.sweep import SweepRecord
from bench.report.behaviour.charts import behaviour_chart
from bench.report.behaviour.images import Picture, TestImages, pictures
from bench.report.behaviour.numbers import Behaviour, behaviours_of
from bench.report.data.row import NOT_APPLICABLE, Row, runtimes_of
from bench.report.data.study import Study
from bench.report.figures.chart import Chart
from bench.report.latency.charts import latency_charts
from bench.report.pareto.chart import pareto_chart
from bench.report.pareto.data import pareto_data
from bench.report.tables.cells import ReportTable
from bench.report.tables.provenance import provenance_tables
from bench.report.tables.results import dynamics_table, published_table, results_table
from bench.report.verdicts.costs import MACS, Axis
from bench.report.verdicts.fronts import area_table, front_certainties, front_table
from bench.report.verdicts.pairs import pairs_of, pairs_table
from bench.report.verdicts.tables import best_table, verdict_table
from bench.report.verdicts.verdicts import MethodVerdict, verdicts_of
from bench.report.verdicts.words import finding


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """A report on one data set. `tables` and `charts` are by the names of their files, in the order
    of the page: charts of accuracy against cost, latency, then behaviour; `pictures` by those of
    behaviour."""

    dataset: str
    title: str
    synthetic: bool
    rows: tuple[Row, ...]
    verdicts: tuple[MethodVerdict, ...]
    tables: Mapping[str, ReportTable]
    charts: Mapping[str, Chart]
    behaviours: Mapping[str, Behaviour]
    behaviours_left_out: tuple[str, ...]
    pictures: Mapping[str, Sequence[Picture]]
    images_reason: str

    @property
    def finding(self) -> str:
        return self.charts["accuracy-macs"].title

    @property
    def scope(self) -> str:
        """What the report covers, in one sentence."""
        done = {row.run for row in self.rows if row.status == "finished"}
        well = ("finished", NOT_APPLICABLE)
        failed = {row.run for row in self.rows if row.status not in well}
        rest = f", {len(failed)} failed or stopped" if failed else ""
        seeds, recipes = (
            sorted({getattr(r, key) for r in self.rows}) for key in ("seed", "recipe")
        )
        listed = ", ".join(map(str, seeds[:8])) + (" ..." if len(seeds) > 8 else "")
        runs = counted(len(done), "finished run")
        return f"{runs}{rest}; seeds: {listed}; recipes: {', '.join(recipes)}."


def document_of(
    records: Sequence[RunRecord],
    store: RunStore,
    *,
    problems: Sequence[Problem] = (),
    sweeps: Sequence[SweepRecord] = (),
    published: Sequence[PublishedPoint] = (),
    images: TestImages | str = "",
) -> Document:
    """Return the report of `records`, all of one data set; arrays are read from `store`. `images`
    are the test images, or why they are not available.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    study = Study(records, store)
    shown, left_out = behaviours_of(study)
    behaviours = {
        f"behaviour-{place:02d}-{slug(one.label)}": one for place, one in enumerate(shown, start=1)
    }
    verdicts = sorted(
        verdicts_of(study),
        key=lambda one: (one.network.control, one.network.title, one.network.distinguishing),
    )
    known = {record.run for record in records}
    swept = [sweep for sweep in sweeps if any(trial.run in known for trial in sweep.trials)]
    tables = [
        *_tables(study, verdicts, shown, published),
        *provenance_tables(study, problems, swept),
    ]
    datasets = sorted({row.dataset for row in study.rows})
    titles = [record.dataset_title for record in records if record.dataset_title]
    return Document(
        dataset=datasets[0] if datasets else "",
        title=one_line((titles or datasets or [""])[0]),
        synthetic=any(row.synthetic for row in study.rows),
        rows=tuple(study.rows),
        verdicts=tuple(verdicts),
        tables={table.name: table for table in tables if table.lines},
        charts=_charts(study, verdicts, published)
        | {name: behaviour_chart(one) for name, one in behaviours.items()},
        behaviours=behaviours,
        behaviours_left_out=tuple(left_out),
        pictures={name: pictures(one, images) for name, one in behaviours.items()},
        images_reason=images if isinstance(images, str) else "",
    )


def _charts(
    study: Study, verdicts: Sequence[MethodVerdict], published: Sequence[PublishedPoint]
) -> dict[str, Chart]:
    """Return the charts of accuracy against cost, with the finding of the verdicts, and of
    latency."""
    ours = {canonical_name(row.backbone) for row in study.rows}
    beside = [p for p in published if p.plottable and canonical_name(p.backbone) in ours]
    by_macs = pareto_data(study.rows, x="nflops", published=beside)
    charts = {"accuracy-macs": pareto_chart(by_macs, title=finding(verdicts, MACS))}
    for runtime in runtimes_of(study.rows):
        by_time = pareto_data(study.rows, x="latency_ms", runtime=runtime)
        if by_time.placed:
            charts[f"accuracy-time-{slug(runtime)}"] = pareto_chart(
                by_time, title=finding(verdicts, Axis(1, runtime))
            )
    return charts | latency_charts(study)


def _tables(
    study: Study,
    verdicts: Sequence[MethodVerdict],
    shown: Sequence[Behaviour],
    published: Sequence[PublishedPoint],
) -> list[ReportTable]:
    """Return all tables but those of provenance, in the order of the page."""
    groups, fronts = study.groups, front_certainties(study)
    gradients = {
        (one.record.run, one_line(point.point.name)): point.together.cells
        for one in shown
        for point in one.points
    }
    return [
        best_table(verdicts),
        verdict_table(verdicts),
        front_table(fronts),
        area_table(fronts),
        pairs_table(pairs_of(study)),
        results_table(study.rows),
        published_table(published, groups),
        dynamics_table(sorted(groups, key=lambda one: (one.control, one.label)), gradients),
    ]
