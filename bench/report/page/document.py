"""What a report says of one data set: all its tables, figures and sentences, from records alone.

Owns which parts there are and what each is made of; owns no page (html.py) and no data set.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.plain_text import counted, one_line, slug
from bench.records.published import PublishedPoint, canonical_name
from bench.records.record import RunRecord
from bench.records.store import Problem, RunStore
from bench.records.sweep import SweepRecord
from bench.report.behaviour.charts import behaviour_chart
from bench.report.behaviour.images import TestImages, pictures
from bench.report.behaviour.numbers import behaviours_of
from bench.report.data.row import NOT_APPLICABLE, runtimes_of
from bench.report.data.study import Study
from bench.report.figures.chart import Chart
from bench.report.latency import latency_charts
from bench.report.pareto.chart import pareto_chart
from bench.report.pareto.data import pareto_data
from bench.report.tables.cells import ReportTable
from bench.report.tables.provenance import provenance_tables
from bench.report.tables.results import dynamics_table, published_table, results_table
from bench.report.verdicts.costs import MACS, Axis
from bench.report.verdicts.fronts import front_points, front_table
from bench.report.verdicts.pairs import pairs_of, pairs_table
from bench.report.verdicts.tables import best_table, verdict_table
from bench.report.verdicts.verdicts import verdicts_of
from bench.report.verdicts.words import finding


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
            verdicts_of(self.study),
            key=lambda one: (one.network.control, one.network.title, one.network.distinguishing),
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
        well = ("finished", NOT_APPLICABLE)
        failed = {row.run for row in self.rows if row.status not in well}
        rest = f", {len(failed)} failed or stopped" if failed else ""
        seeds, recipes = (
            sorted({getattr(r, key) for r in self.rows}) for key in ("seed", "recipe")
        )
        listed = ", ".join(map(str, seeds[:8])) + (" ..." if len(seeds) > 8 else "")
        runs = counted(len(done), "finished run")
        return f"{runs}{rest}; seeds: {listed}; recipes: {', '.join(recipes)}."

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
        gradients = {
            (one.record.run, one_line(point.point.name)): point.together
            for one in self.behaviours.values()
            for point in one.points
        }
        return [
            best_table(self.verdicts),
            verdict_table(self.verdicts),
            front_table(front_points(self.study)),
            pairs_table(pairs_of(self.study)),
            results_table(self.rows),
            published_table(published, groups),
            dynamics_table(sorted(groups, key=lambda one: (one.control, one.label)), gradients),
        ]
