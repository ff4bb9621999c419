"""The interactive Pareto page: one HTML file that needs no network, with a table for every reader.

Owns the page and its style; what lies where comes from plane.py. Whatever a plugin or a paper
wrote is escaped before it enters the page.
"""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from string import Template
from typing import TYPE_CHECKING, Any

from bench.analysis.statistics import Bounds
from bench.errors import ConfigError
from bench.records.published import PublishedPoint, canonical_name
from bench.report.groups import Group
from bench.report.plane import Foreign, Placed, Plane, headline, plane_of
from bench.report.rows import Row
from bench.report.style import DENSE, GREY, Style, greyed, styles
from bench.report.tables import document_table

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter, Scattergl

_BUTTONS = ["zoom2d", "pan2d", "resetScale2d", "toImage"]
# Black vanishes on a dark page; this grey stands out on both.
_DENSE = Style("#767676", DENSE.mark, DENSE.symbol)

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
    figure = _figure(plane)
    return str(
        figure.to_html(
            full_html=False,
            include_plotlyjs=True,
            div_id="pareto",
            default_height="34rem",
            config={"responsive": True, "displaylogo": False, "modeBarButtons": [_BUTTONS]},
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


def _figure(plane: Plane) -> Figure:
    try:
        import plotly.graph_objects as go
    except ImportError:
        raise ConfigError(
            "The interactive page needs plotly, which is not installed.", hint="pip install plotly"
        ) from None
    theirs = [foreign.point.method for foreign in plane.published]
    known = styles(plane.methods, controls=plane.controls, theirs=theirs)
    figure = go.Figure()
    if plane.placed:
        figure.add_trace(_front(plane))
    named: set[str] = set()
    in_full = set(plane.in_full)
    for members in _by_name(p for p in plane.placed if p not in in_full):
        figure.add_trace(_crowd(members, known, named))
    for members in _by_name(plane.in_full):
        figure.add_trace(_ours(members, known, named))
    for foreign in plane.published:
        figure.add_trace(_theirs(foreign, known, named))
    _lay_out(figure, plane)
    return figure


def _front(plane: Plane) -> Scatter:
    import plotly.graph_objects as go

    along = plane.front
    return go.Scatter(
        x=[placed.cost for placed in along],
        y=[100 * placed.group.accuracy for placed in along],
        mode="lines",
        line={"shape": "hv", "color": GREY, "width": 1.5},
        name="Pareto front of our runs",
        hoverinfo="skip",
    )


def _by_name(placed: Iterable[Placed]) -> list[list[Placed]]:
    """Return what shares an entry of the legend: a trace of its own for each point takes minutes
    where there are thousands."""
    found: dict[str, list[Placed]] = defaultdict(list)
    for one in placed:
        found[_legend_name(one)].append(one)
    return list(found.values())


def _legend_name(placed: Placed) -> str:
    return "dense networks" if placed.group.dense else str(placed.group.first["method"])


def _style_of(placed: Placed, known: Mapping[str, Style]) -> Style:
    group = placed.group
    return _DENSE if group.dense else known[canonical_name(str(group.first["method"]))]


def _ours(members: Sequence[Placed], known: Mapping[str, Style], named: set[str]) -> Scatter:
    import plotly.graph_objects as go

    style = _style_of(members[0], known)
    return go.Scatter(
        **_places(members, named),
        error_y=_bars(members, style),
        marker={"symbol": style.symbol, "color": style.colour, "size": 11},
    )


def _crowd(members: Sequence[Placed], known: Mapping[str, Style], named: set[str]) -> Scattergl:
    """Return pale marks, drawn by the graphics card: thousands of elements slow a page down."""
    import plotly.graph_objects as go

    style = _style_of(members[0], known)
    marker = {"symbol": style.symbol, "color": style.colour, "size": 6, "opacity": 0.35}
    return go.Scattergl(**_places(members, named), marker=marker)


def _places(members: Sequence[Placed], named: set[str]) -> dict[str, Any]:
    return {
        "x": [placed.cost for placed in members],
        "y": [100 * placed.group.accuracy for placed in members],
        "mode": "markers",
        "hovertext": [_hover(placed.group) for placed in members],
        "hoverinfo": "text",
        **_legend(_legend_name(members[0]), named),
    }


def _bars(members: Sequence[Placed], style: Style) -> dict[str, Any]:
    """Return the error bars; one without an interval has a bar of no length."""
    groups = [placed.group for placed in members]
    if all(group.accuracy_bounds is None for group in groups):
        return {"visible": False}
    ends = [group.accuracy_bounds or Bounds(group.accuracy, group.accuracy) for group in groups]
    return {
        "array": [100 * (e.high - g.accuracy) for e, g in zip(ends, groups, strict=True)],
        "arrayminus": [100 * (g.accuracy - e.low) for e, g in zip(ends, groups, strict=True)],
        "thickness": 1.2,
        "color": style.colour,
    }


def _theirs(foreign: Foreign, known: Mapping[str, Style], named: set[str]) -> Scatter:
    import plotly.graph_objects as go

    point = foreign.point
    style = known[canonical_name(point.method)]
    colour = greyed(style.colour)
    return go.Scatter(
        x=[foreign.cost],
        y=[100 * foreign.accuracy],
        mode="markers",
        marker={"symbol": f"{style.symbol}-open", "color": colour, "size": 10},
        hovertext=[_lines(f"published: {point.method}", *_published_cells(foreign).items())],
        hoverinfo="text",
        **_legend(f"published: {point.method}", named),
    )


def _legend(name: str, named: set[str]) -> dict[str, Any]:
    """Return the legend's settings: traces of one name are one entry and hide together."""
    first = name not in named
    named.add(name)
    return {"name": html.escape(name), "legendgroup": name, "showlegend": first}


def _hover(group: Group) -> str:
    first = group.first
    latency, spread = group.mean_of("latency_ms_b1"), group.accuracy_sd
    seeds = ", ".join(str(row["seed"]) for row in group.rows)
    accuracy = f"{100 * group.accuracy:.2f} %"
    return _lines(
        group.label,
        ("backbone", first["backbone"]),
        ("accuracy", accuracy if spread is None else f"{accuracy} ± {100 * spread:.2f} (sd)"),
        ("nFLOPs", f"{group.mean_of('nflops') or 0:.3f}, policy included"),
        ("without policy", f"{group.mean_of('nflops_backbone') or 0:.3f}"),
        ("MACs", f"{(group.mean_of('macs') or 0) / 1e6:.2f} M per image"),
        ("batch 1", "not measured" if latency is None else f"{latency:.2f} ms"),
        *_dynamics(group),
        ("recipe", f"{first['recipe']}, {first['train_epochs']} epochs"),
        ("training", _training(group)),
        ("seed" if group.seeds == 1 else "seeds", seeds),
    )


def _dynamics(group: Group) -> list[tuple[str, str]]:
    shuffled, difficulty = group.mean_of("shuffled_loss"), group.mean_of("difficulty_correlation")
    if shuffled is None:
        return []
    found = [
        ("distinct masks", f"{group.mean_of('distinct_masks') or 0:,.0f}"),
        ("spread of nFLOPs over images", f"{group.mean_of('nflops_std') or 0:.3f} (sd)"),
        ("masks shuffled", f"{-100 * shuffled:+.2f} points"),
    ]
    if difficulty is not None:
        found.append(("cost and difficulty", f"{difficulty:+.2f} (rank correlation)"))
    return found


def _training(group: Group) -> str:
    total = group.mean_of("total_dense_epochs")
    cost = "cost unknown" if total is None else f"{total:.0f} dense epochs"
    return ", ".join(text for text in (cost, group.first["budget_note"]) if text)


def _lines(head: str, *pairs: tuple[str, object]) -> str:
    rest = [f"{name}: {html.escape(str(value))}" for name, value in pairs if value]
    return "<br>".join([f"<b>{html.escape(head)}</b>", *rest])


def _published_cells(foreign: Foreign) -> dict[str, str]:
    point = foreign.point
    return {
        "method": point.method,
        "variant": point.variant,
        "backbone": point.backbone,
        "accuracy %": f"{100 * foreign.accuracy:.2f}",
        "nFLOPs": "" if point.nflops is None else f"{point.nflops:.3f}",
        "MMACs": "" if point.macs is None else f"{point.macs / 1e6:.2f}",
        "source": point.source,
        "note": point.note,
    }


def _published_table(published: Sequence[Foreign]) -> str:
    caption = "As their sources print them: other recipes, other ways of counting."
    return html_table([_published_cells(foreign) for foreign in published], caption=caption)


def _lay_out(figure: Figure, plane: Plane) -> None:
    quiet = {"gridcolor": "rgba(127,127,127,0.25)", "zeroline": False, "automargin": True}
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 60, "r": 10, "t": 20, "b": 60},
        xaxis={"title": {"text": html.escape(plane.x_label)}, **quiet},
        yaxis={"title": {"text": "test accuracy, %"}, **quiet},
        legend={"orientation": "h", "yanchor": "top", "y": -0.18, "x": 0},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": "#0072B2"},
        hoverlabel={"bgcolor": "#30343b", "font": {"color": "#ffffff"}, "align": "left"},
    )
    if plane.dense is not None:
        height = 100 * plane.dense.group.accuracy
        figure.add_hline(y=height, line={"dash": "dot", "color": GREY, "width": 1.2})
