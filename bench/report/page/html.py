"""The report, and the Pareto plot alone, as one HTML page that needs no network.

Owns how a Document becomes HTML; templates, style and scripts lie beside this, and everything that
comes from records is escaped by the templates. Loads jinja2 only when a page is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError
from bench.plain_text import plain
from bench.records.published import PublishedPoint
from bench.records.record import PointRecord
from bench.report.behaviour.charts import behaviour_chart
from bench.report.behaviour.gradients import together_words
from bench.report.behaviour.images import TestImages, pictures
from bench.report.behaviour.numbers import Behaviour, behaviour_table
from bench.report.data.row import Row
from bench.report.figures.chart import Chart, as_json
from bench.report.latency.charts import rank_chart, time_chart
from bench.report.latency.ranks import ranks_table
from bench.report.page.document import Document, overview_table
from bench.report.pareto.chart import chart_of
from bench.report.pareto.data import ParetoData, pareto_data
from bench.report.pareto.finding import pareto_finding
from bench.report.tables.cells import ReportTable, table_of
from bench.report.tables.published import published_cells
from bench.report.tables.results import results_table
from bench.report.verdicts.fronts import area_table, front_table
from bench.report.verdicts.pairs import pairs_table
from bench.report.verdicts.words import gain_words, paragraph, summary, why

if TYPE_CHECKING:
    from jinja2 import Template

_HEADINGS = {
    "runs": "Runs",
    "recipes": "Recipes and budgets",
    "timing": "Timing",
    "resources": "First query, memory, energy",
    "reconstructed": "Reconstructed settings",
    "sweeps": "Sweeps",
    "holes": "Failures and holes",
    "environment": "Environment",
}
_PANELS = (
    "Each figure: how often each block runs; the magnitude of the gradient there, as defined above "
    "(grey: the dense network); cost of single images (dashed: mean); mean cost against "
    "difficulty, the loss of the dense network (band: the middle half)."
)
_GRADIENT = (
    "The magnitude of the gradient at a block is the root mean square, over the weights of its "
    "convolutions and over batches of 128, of the gradient of a batch's mean cross-entropy: on "
    "1,024 training images, after training, with the network's own decisions. An image adds "
    "nothing at a block that it skips, so a block that never runs has 0. To compare the rates with "
    "the gradients of the dense network is the idea of the SGAD paper's Fig. 4; the definition is "
    "ours, and the paper's may be another. Gradients differ between stages whatever is skipped, "
    "so the correlation is given within stages too. Blocks of one network are not independent of "
    "each other: a correlation over them describes that network and proves nothing about others."
)
_OTHER_ROUNDS = (
    "milliseconds of different sets of rounds are not paired; the verdicts in time use ratios "
    "within the same rounds only"
)


class _Charts:
    """The charts of a page, numbered as they are put into it."""

    def __init__(self) -> None:
        self._drawn: list[dict[str, Any]] = []

    def add(self, chart: Chart, *more: str) -> Mapping[str, Any]:
        """Return what the template needs to show a chart, with more notes."""
        self._drawn.append(as_json(chart))
        notes = [note for note in (*chart.notes, *more) if note]
        number = len(self._drawn) - 1
        return {"id": number, "alt": chart.alt, "notes": notes, "title": chart.title}

    @property
    def data(self) -> Any:
        """All charts as JSON that no HTML can end early."""
        drop = {"notes", "alt", "size_in", "legends", "synthetic", "title"}
        kept = [{k: v for k, v in chart.items() if k not in drop} for chart in self._drawn]
        text = json.dumps(kept, separators=(",", ":"), allow_nan=False)
        return _markup(text.replace("<", "\\u003c"))


def document_page(
    document: Document, *, images: TestImages | None = None, images_reason: str = ""
) -> str:
    """Return the page. `images` are the test images, if they are at hand; else say why not.

    Raises:
        ConfigError: matplotlib or jinja2 is not installed.
    """
    charts = _Charts()
    static = "thick line: the static curve, straight between the best dense networks"
    macs = charts.add(chart_of(document.by_macs), static if document.by_macs.static_curves else "")
    time = [charts.add(chart_of(data), _OTHER_ROUNDS) for data in document.by_time]
    ranks = [charts.add(rank_chart(ranking)) for ranking in document.rankings]
    calls = [
        charts.add(time_chart(one.samples, without_samples=one.missing))
        for one in document.calls
        if any(not samples.network.dense for samples in one.samples)
    ]
    behaviours = [_shown(behaviour, images, charts) for behaviour in document.behaviours]
    return _template("document.html").render(
        document=document,
        heading=f"skipbench on {document.title or document.dataset or 'no data set'}",
        finding=pareto_finding(document.by_macs),
        css=_markup(_read("page.css")),
        files=[_markup(_read(name)) for name in ("chart.js", "tables.js")],
        charts={"macs": macs, "time": time, "latency": [*ranks, *calls]},
        data=charts.data,
        overview=overview_table(document),
        summary=summary(document.verdicts),
        verdicts=_by_kind(document),
        paragraph=paragraph,
        gain=gain_words,
        why=why,
        results=_without_data(results_table(document.rows)),
        front=front_table(document.fronts),
        areas=area_table(document.fronts),
        pairs=pairs_table(document.pairs),
        gradient=_GRADIENT,
        panels=_PANELS,
        behaviour_numbers=behaviour_table(document.behaviours),
        behaviours=behaviours,
        images_reason="" if images is not None else images_reason,
        ranks=[ranks_table(ranking) for ranking in document.rankings],
        provenance=[(_HEADINGS[table.name], table) for table in document.provenance],
    )


def pareto_page(
    rows: Sequence[Row],
    published: Sequence[PublishedPoint] = (),
    *,
    x: str = "nflops",
    title: str | None = None,
) -> str:
    """Return a page of the plot alone: what to know before reading it, and all numbers.

    Raises:
        UnknownNameError: no such axis.
        ConfigError: several data sets at once, or jinja2 is not installed.
    """
    data, charts = pareto_data(rows, x=x, published=published), _Charts()
    chart = chart_of(data, title=title)
    papers = [published_cells(foreign.point) for foreign in data.published]
    said = "As their sources print them: other recipes, other ways of counting."
    count = len(data.placed)
    networks = "1 network" if count == 1 else f"{count} networks"
    shown = charts.add(chart)
    return _template("pareto.html").render(
        title=chart.title,
        synthetic=data.synthetic,
        summary=f"{networks} on {data.dataset or 'no data set'}: "
        f"test accuracy against {data.x_label}.",
        shown=shown,
        ours=_our_table(rows, data),
        published=table_of("published", said, papers),
        css=_markup(_read("page.css")),
        files=[_markup(_read(name)) for name in ("chart.js", "tables.js")],
        charts=charts.data,
    )


def _our_table(rows: Sequence[Row], data: ParetoData) -> ReportTable:
    if not data.crowded:
        return _without_data(results_table(rows))
    shown = results_table([row for placed in data.in_full for row in placed.group.rows])
    caption = (
        "One line per run and operating point of the networks drawn in full. "
        f"All {len(rows):,} lines: bench results --format csv."
    )
    return _without_data(ReportTable(shown.name, caption, shown.titles, shown.lines))


def _without_data(table: ReportTable) -> ReportTable:
    """Return the table without the data set, which the page says once."""
    kept = [n for n, title in enumerate(table.titles) if title != "data"]
    titles, *lines = (tuple(line[n] for n in kept) for line in (table.titles, *table.lines))
    return ReportTable(table.name, table.caption, titles, tuple(lines))


def _template(name: str) -> Template:
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
    except ImportError:
        raise ConfigError(
            "Pages need jinja2, which is not installed.", hint="pip install jinja2"
        ) from None
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_tamed,
        loader=FunctionLoader(_read),
    )
    return environment.get_template(name)


def _tamed(value: Any) -> Any:
    """Return a text with what is not printed written out; what is HTML already stays."""
    is_text = isinstance(value, str) and not hasattr(value, "__html__")
    return plain(value) if is_text else value


def _read(name: str) -> str:
    return files("bench.report.page").joinpath(name).read_text(encoding="utf-8")


def _markup(html: str) -> Any:
    from markupsafe import Markup

    return Markup(html)


def _by_kind(document: Document) -> list[tuple[str, list[Any]]]:
    kinds = (("Methods", False), ("Controls", True))
    found = [(n, [v for v in document.verdicts if v.family.control is k]) for n, k in kinds]
    return [(name, members) for name, members in found if members]


def _shown(behaviour: Behaviour, images: TestImages | None, charts: _Charts) -> Mapping[str, Any]:
    record, points = behaviour.record, behaviour.points
    known = any(shown.share_n is not None for shown in points)
    same = ["All images cost the same."] if known and behaviour.extremes is None else []
    together = dict.fromkeys(together_words(shown.together) for shown in points)
    facts = [*(_facts(shown.point) for shown in points), f"seed {record.spec.seed}"]
    return {
        "label": f"{behaviour.label}{' (control)' if behaviour.control else ''}",
        "chart": charts.add(behaviour_chart(behaviour)),
        "strips": pictures(behaviour, images),
        "facts": "; ".join(facts),
        "sentences": [*together, *behaviour.missing, *same],
    }


def _facts(point: PointRecord) -> str:
    masks = "1 mask" if point.distinct_masks == 1 else f"{point.distinct_masks:,} distinct masks"
    loss = None if point.dynamics is None else point.dynamics.shuffled_loss
    shuffled = "" if loss is None else f", shuffled {-100 * loss:+.2f} points"
    return f"{point.name}{': ' if point.name else ''}{masks}{shuffled}"
