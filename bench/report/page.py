"""The interactive Pareto page: one HTML file that needs no network, with a table for every reader.

Owns the page and its style; the plot comes from traces.py. Whatever a plugin or a paper wrote is
escaped before it enters the page.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from string import Template

from bench.records.published import PublishedPoint
from bench.report.headline import headline
from bench.report.plane import Foreign, Plane, plane_of
from bench.report.rows import Row
from bench.report.tables import document_table
from bench.report.traces import pareto_traces, published_cells

_BUTTONS = ["zoom2d", "pan2d", "autoScale2d", "resetScale2d", "toImage"]
PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --ink: #1a1a1a; --paper: #ffffff; --line: #d0d0d0; --soft: #555555; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececec; --paper: #16181c; --line: #44484f; --soft: #b0b4ba; }
}
body { margin: 0 auto; max-width: 80rem; padding: 1rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.notes { color: var(--soft); font-size: .875rem; padding-left: 1.2rem; }
.synthetic { border: 2px solid #D55E00; padding: .4rem .8rem; font-weight: 600; }
.wide { overflow-x: auto; } .wide:focus { outline: 2px solid #0072B2; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid var(--line); text-align: left; }
thead th { vertical-align: bottom; }
tbody th, tbody td { vertical-align: top; white-space: nowrap; }
tbody td:last-child { white-space: normal; min-width: 11rem; }
.plotly-graph-div text { fill: var(--ink) !important; }
.plotly-graph-div .hoverlayer text { fill: #ffffff !important; }
</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
</body>
</html>
""")


def pareto_page(
    rows: Sequence[Row],
    published: Sequence[PublishedPoint] = (),
    *,
    x: str = "nflops",
    title: str | None = None,
) -> str:
    """Return a self-contained page: the plot, what to know before reading it, and all numbers.

    Raises:
        UnknownNameError: no such axis.
        ConfigError: several data sets at once, or plotly is not installed.
    """
    plane = plane_of(rows, x=x, published=published)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in plane.notes())
    parts = [
        '<p class="synthetic">Synthetic data: not a result about real images.</p>'
        if plane.synthetic
        else "",
        f"<p>{html.escape(_summary(plane))}</p>",
        pareto_div(plane),
        f'<ul class="notes">{notes}</ul>',
        "<h2>Our runs</h2>",
        _our_table(rows, plane),
    ]
    if plane.published:
        parts += ["<h2>Published numbers</h2>", _published_table(plane.published)]
    return page(title or headline(plane), "\n".join(part for part in parts if part))


def page(title: str, body: str) -> str:
    """Return an HTML page around `body`, which is HTML; `title` is plain text."""
    return PAGE.substitute(title=html.escape(title), body=body)


def pareto_div(plane: Plane) -> str:
    """Return the interactive plot as HTML, plotly itself included (4.7 MB).

    Raises:
        ConfigError: plotly is not installed.
    """
    return _plot(plane, div_id="pareto", include_plotlyjs=True)


def plot_html(plane: Plane, *, div_id: str) -> str:
    """Return the interactive plot as HTML for a page that has plotly already.

    Raises:
        ConfigError: plotly is not installed.
    """
    return _plot(plane, div_id=div_id, include_plotlyjs=False)


def _plot(plane: Plane, *, div_id: str, **options: bool) -> str:
    return str(
        pareto_traces(plane).to_html(
            full_html=False,
            div_id=div_id,
            default_height="34rem",
            config={"responsive": True, "displaylogo": False, "modeBarButtons": [_BUTTONS]},
            **options,
        )
    )


def html_table(cells: Sequence[Mapping[str, str]], *, caption: str) -> str:
    """Return plain-text cells, one mapping per line, as an HTML table that scrolls sideways."""
    heads = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in (cells or [{}])[0])
    lines = []
    for line in cells:
        first, *rest = (html.escape(text) for text in line.values())
        cols = "".join(f"<td>{text}</td>" for text in rest)
        lines.append(f'<tr><th scope="row">{first}</th>{cols}</tr>')
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{html.escape(caption)}">\n'
        f"<table><caption>{html.escape(caption)}</caption>\n<thead><tr>{heads}</tr></thead>\n"
        f"<tbody>\n{chr(10).join(lines)}\n</tbody></table></div>"
    )


def _our_table(rows: Sequence[Row], plane: Plane) -> str:
    if not plane.crowded:
        return html_table(_cells(rows), caption="One line per run and operating point.")
    shown = [row for placed in plane.in_full for row in placed.group.rows]
    caption = (
        "One line per run and operating point of the networks drawn in full. "
        f"All {len(rows):,} lines: bench results --format csv."
    )
    return html_table(_cells(shown), caption=caption)


def _cells(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return the cells of the table; the page is about one data set and does not repeat it."""
    return [
        {title: text for title, text in line.items() if title != "data"}
        for line in document_table(rows)
    ]


def _summary(plane: Plane) -> str:
    count = len(plane.placed)
    networks = "1 network" if count == 1 else f"{count} networks"
    return f"{networks} on {plane.dataset or 'no data set'}: test accuracy against {plane.x_label}."


def _published_table(published: Sequence[Foreign]) -> str:
    caption = "As their sources print them: other recipes, other ways of counting."
    return html_table([published_cells(foreign) for foreign in published], caption=caption)
