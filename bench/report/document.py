"""What a report says of one data set: all its numbers and sentences, from records alone.

Owns which parts there are and what each is made of; owns no page (document_page.py), no files
(document_files.py) and no images, which come from whoever has the data set at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.plain_text import one_line
from bench.records.published import PublishedPoint, canonical_name
from bench.records.record import RunRecord
from bench.records.store import Problem, RunStore
from bench.records.sweep import SweepRecord
from bench.report.behaviour import Behaviour, behaviour_table, behaviours_of
from bench.report.front_certainty import (
    FrontCertainty,
    area_table,
    front_certainties,
    front_table,
)
from bench.report.making import making_tables
from bench.report.pairs import Pair, pairs_of, pairs_table
from bench.report.plane import Plane, plane_of
from bench.report.ranks import Ranking, ranking_of
from bench.report.ranks import headline as ranks_headline
from bench.report.report_table import ReportTable, table_of
from bench.report.rows import NOT_APPLICABLE, Row, rows
from bench.report.saving import Samples, networks_of, samples_of
from bench.report.side_by_side import other_papers, paper_table
from bench.report.tables import document_table
from bench.report.verdict_lines import VerdictLine, verdict_lines, verdict_summary, verdict_table
from bench.report.verdicts import judge


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """A report on one data set; `by_time` and `ranking` are None where nothing was timed."""

    dataset: str
    title: str
    synthetic: bool
    rows: tuple[Row, ...]
    published: tuple[PublishedPoint, ...]
    verdicts: tuple[VerdictLine, ...]
    summary: tuple[str, ...]
    by_macs: Plane
    by_time: Plane | None
    fronts: tuple[FrontCertainty, ...]
    pairs: tuple[Pair, ...]
    paper: ReportTable
    others: ReportTable
    behaviours: tuple[Behaviour, ...]
    behaviours_left_out: tuple[str, ...]
    ranking: Ranking | None
    samples: tuple[Samples, ...]
    without_samples: int
    making: tuple[ReportTable, ...]

    @property
    def tables(self) -> list[ReportTable]:
        """All tables that are written beside the page, in the order of the page."""
        found = [
            verdict_table(self.verdicts),
            results_table(self),
            front_table(self.fronts),
            area_table(self.fronts),
            pairs_table(self.pairs),
            self.paper,
            self.others,
            behaviour_table(self.behaviours),
            *([] if self.ranking is None else [ranks_table(self.ranking)]),
            *self.making,
        ]
        return [table for table in found if table.lines]

    @property
    def scope(self) -> str:
        """What the report covers, in one sentence."""
        done = {row["run"] for row in self.rows if row["status"] == "finished"}
        well = ("finished", NOT_APPLICABLE)
        failed = {row["run"] for row in self.rows if row["status"] not in well}
        seeds = sorted({row["seed"] for row in self.rows})
        recipes = sorted({str(row["recipe"]) for row in self.rows})
        one = "seed" if len(seeds) == 1 else "seeds"
        rest = f", {len(failed)} failed or stopped" if failed else ""
        names = f"recipe{'' if len(recipes) == 1 else 's'} {', '.join(recipes)}"
        listed = ", ".join(map(str, seeds[:8])) + (" ..." if len(seeds) > 8 else "")
        return f"{len(done)} finished runs{rest}; {one} {listed}; {names}."


def document_of(
    records: Sequence[RunRecord],
    store: RunStore,
    *,
    problems: Sequence[Problem] = (),
    sweeps: Sequence[SweepRecord] = (),
    published: Sequence[PublishedPoint] = (),
) -> Document:
    """Return the report of `records`, all of one data set; arrays are read from `store`.

    Raises:
        ConfigError: the records are of several data sets.
    """
    found = rows(records)
    plottable = [point for point in published if point.plottable]
    by_macs = plane_of(found, x="nflops", published=_same_backbones(plottable, found))
    by_time = plane_of(found, x="latency_ms")
    lines = verdict_lines(judge(records, store))
    behaviours, left_out = behaviours_of(records, store)
    networks = networks_of(records)
    samples, missing = samples_of(networks, store)
    titles = [record.dataset_title for record in records if record.dataset_title]
    return Document(
        dataset=by_macs.dataset,
        title=one_line(titles[0]) if titles else by_macs.dataset,
        synthetic=by_macs.synthetic,
        rows=tuple(found),
        published=tuple(published),
        verdicts=tuple(lines),
        summary=tuple(verdict_summary(lines)),
        by_macs=by_macs,
        by_time=by_time if by_time.placed else None,
        fronts=tuple(front_certainties(records, store)),
        pairs=tuple(pairs_of(records, store)),
        paper=paper_table(published, found),
        others=other_papers(published, found),
        behaviours=tuple(behaviours),
        behaviours_left_out=tuple(left_out),
        ranking=ranking_of(networks),
        samples=tuple(samples),
        without_samples=missing,
        making=tuple(making_tables(records, problems, _about(sweeps, records))),
    )


def results_table(document: Document) -> ReportTable:
    """Return one line per run and operating point."""
    lines = [
        {title: text for title, text in line.items() if title != "data"}
        for line in document_table(document.rows)
    ]
    return table_of("results", "One line per run and operating point.", lines)


def ranks_table(ranking: Ranking) -> ReportTable:
    """Return the networks by MACs, with their rank and time at each batch size."""
    lines = []
    orders = {size: ranking.by_time(size) for size in ranking.batch_sizes}
    for place, network in enumerate(ranking.by_macs, start=1):
        line = {"network": network.name, "nFLOPs": f"{network.nflops:.3f}", "rank": str(place)}
        for size in ranking.batch_sizes:
            ratio, interval = network.speedups[size]
            line[f"rank, batch {size}"] = str(orders[size].index(network) + 1)
            line[f"time, batch {size}"] = f"{1 / ratio:.2f}"
            line[f"95 %, batch {size}"] = f"{1 / interval.high:.2f} to {1 / interval.low:.2f}"
        lines.append(line)
    caption = (
        f"{ranks_headline(ranking)}. Rank 1: fewest MACs, fastest. MACs and times are relative "
        f"to the {ranking.dense}."
    )
    return table_of("ranks", caption, lines)


def _same_backbones(points: Sequence[PublishedPoint], found: Sequence[Row]) -> list[PublishedPoint]:
    ours = {canonical_name(str(row["backbone"])) for row in found}
    return [point for point in points if canonical_name(point.backbone) in ours]


def _about(sweeps: Sequence[SweepRecord], records: Sequence[RunRecord]) -> list[SweepRecord]:
    """Return the sweeps that have a trial among `records`."""
    known = {record.run for record in records}
    return [sweep for sweep in sweeps if any(trial.run in known for trial in sweep.trials)]
