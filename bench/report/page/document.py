"""What a report says of one data set: all its numbers and sentences, from records alone.

Owns which parts there are and what each is made of; owns no page (html.py), no files (files.py) and
no images, which come from the data set where it is at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.plain_text import one_line
from bench.records.published import PublishedPoint, canonical_name
from bench.records.record import RunRecord
from bench.records.store import Problem, RunStore
from bench.records.sweep import SweepRecord
from bench.report.behaviour.numbers import Behaviour, behaviour_table, behaviours_of
from bench.report.data.groups import Group, group_seeds
from bench.report.data.row import NOT_APPLICABLE, Row, runtimes_of
from bench.report.data.study import Study
from bench.report.latency.ranks import Ranking, ranking_of, ranks_table
from bench.report.latency.timed import Samples, networks_of, samples_of
from bench.report.pareto.data import ParetoData, pareto_data
from bench.report.tables.cells import ReportTable, table_of
from bench.report.tables.provenance import provenance_tables
from bench.report.tables.published import other_papers, paper_table
from bench.report.tables.results import results_table
from bench.report.verdicts.costs import MACS, Axis
from bench.report.verdicts.fronts import FrontCertainty, area_table, front_certainties, front_table
from bench.report.verdicts.pairs import Pair, pairs_of, pairs_table
from bench.report.verdicts.verdicts import MethodVerdict, verdicts_of
from bench.report.verdicts.words import gain_words, ordered, verdict_table

MOST_LINES = 10
"""The table beside the first figure has no more of them."""

SHOWN_RUNTIMES = 2


@dataclass(frozen=True, slots=True, eq=False)
class TimedCalls:
    """The timed calls of the networks in one runtime, and how many networks have none on disk."""

    runtime: str
    samples: tuple[Samples, ...]
    missing: int


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """A report on one data set; `by_time`, `rankings` and `calls` have what there is of each
    runtime."""

    dataset: str
    title: str
    synthetic: bool
    rows: tuple[Row, ...]
    groups: tuple[Group, ...]
    verdicts: tuple[MethodVerdict, ...]
    by_macs: ParetoData
    by_time: tuple[ParetoData, ...]
    fronts: tuple[FrontCertainty, ...]
    pairs: tuple[Pair, ...]
    paper: ReportTable
    others: ReportTable
    behaviours: tuple[Behaviour, ...]
    behaviours_left_out: tuple[str, ...]
    rankings: tuple[Ranking, ...]
    calls: tuple[TimedCalls, ...]
    provenance: tuple[ReportTable, ...]

    @property
    def tables(self) -> list[ReportTable]:
        """All tables that are written beside the page, in the order of the page."""
        found = [
            overview_table(self),
            verdict_table(self.verdicts),
            front_table(self.fronts),
            area_table(self.fronts),
            pairs_table(self.pairs),
            results_table(self.rows),
            self.paper,
            self.others,
            behaviour_table(self.behaviours),
            *map(ranks_table, self.rankings),
            *self.provenance,
        ]
        return [table for table in found if table.lines]

    @property
    def scope(self) -> str:
        """What the report covers, in one sentence."""
        done = {row.run for row in self.rows if row.status == "finished"}
        well = ("finished", NOT_APPLICABLE)
        failed = {row.run for row in self.rows if row.status not in well}
        seeds = sorted({row.seed for row in self.rows})
        recipes = sorted({row.recipe for row in self.rows})
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
    study = Study(records, store)
    groups = group_seeds(study.rows)
    ours = {canonical_name(row.backbone) for row in study.rows}
    beside = [p for p in published if p.plottable and canonical_name(p.backbone) in ours]
    by_macs = pareto_data(study.rows, x="nflops", published=beside)
    by_time = [
        pareto_data(study.rows, x="latency_ms", runtime=name) for name in runtimes_of(study.rows)
    ]
    behaviours, left_out = behaviours_of(study)
    networks = networks_of(records, study.rows)
    calls = {name: samples_of(members, store) for name, members in networks.items()}
    rankings = (ranking_of(members) for members in networks.values())
    titles = [record.dataset_title for record in records if record.dataset_title]
    known = {record.run for record in records}
    swept = [sweep for sweep in sweeps if any(trial.run in known for trial in sweep.trials)]
    return Document(
        dataset=by_macs.dataset,
        title=one_line(titles[0]) if titles else by_macs.dataset,
        synthetic=by_macs.synthetic,
        rows=tuple(study.rows),
        groups=tuple(groups),
        verdicts=tuple(ordered(verdicts_of(study))),
        by_macs=by_macs,
        by_time=tuple(data for data in by_time if data.placed),
        fronts=tuple(front_certainties(study)),
        pairs=tuple(pairs_of(study)),
        paper=paper_table(published, groups),
        others=other_papers(published, groups),
        behaviours=tuple(behaviours),
        behaviours_left_out=tuple(left_out),
        rankings=tuple(ranking for ranking in rankings if ranking is not None),
        calls=tuple(TimedCalls(name, tuple(of), n) for name, (of, n) in calls.items()),
        provenance=tuple(provenance_tables(study, problems, swept)),
    )


def overview_table(document: Document) -> ReportTable:
    """Return the setting of each method that is best beside static networks, the best first."""
    best: dict[str, MethodVerdict] = {}
    for one in sorted(document.verdicts, key=_merit):
        if not one.family.control:
            best[one.method] = one
    chosen = sorted(best.values(), key=_merit, reverse=True)[:MOST_LINES]
    timed = runtimes_of(document.rows)
    beside = {row.run: group for group in document.groups for row in group.rows}
    lines = []
    for one in chosen:
        group = max(
            (g for g in document.groups if g.first.run == one.family.rows[0].run),
            key=lambda g: g.accuracy,
            default=beside[one.family.rows[0].run],
        )
        line = {
            "method": one.family.label,
            "accuracy, %": f"{100 * group.accuracy:.2f}",
            "MACs / dense": f"{group.mean_of('nflops') or 0:.2f}",
        }
        shown = [MACS, *(Axis(1, runtime) for runtime in timed[:SHOWN_RUNTIMES])]
        for answer in (answer for answer in one.axes if answer.axis in shown):
            where = answer.axis.title.removeprefix("time at batch 1")
            if answer.axis != MACS:
                ratio = group.mean_time("speedup", 1, answer.axis.runtime)
                line[f"speed-up{where}"] = "" if ratio is None else f"{ratio:.2f}x"
            gain = gain_words(answer).partition(" (")[0]
            what = f"time{where}" if answer.axis != MACS else where
            line[f"at equal {what}"] = f"{answer.outcome} {gain}".strip()
        lines.append(line)
    of = "each method"
    if len(best) > MOST_LINES:
        of = f"the first {MOST_LINES} of {len(best)} methods"
    caption = (
        f"The best setting of {of}, at its most accurate operating point, against static networks "
        "of the same cost: gains in points of accuracy, times at batch 1."
    )
    if len(timed) > SHOWN_RUNTIMES:
        caption += f" Below also in {', '.join(timed[SHOWN_RUNTIMES:])}."
    return table_of("overview", caption, lines)


def _merit(one: MethodVerdict) -> tuple[bool, float, float]:
    """For sorting: settings with a verdict at equal MACs by their gain, the others by accuracy."""
    answer = one.axes[0]
    gain = answer.points[0] if answer.verdict is not None and answer.points else 0.0
    return answer.verdict is not None, gain, max(row.accuracy or 0 for row in one.family.rows)
