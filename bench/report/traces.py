"""The interactive Pareto plot as plotly's traces: one for each entry of the legend.

What lies where comes from plane.py; owns no page. Names from plugins and papers are escaped.
"""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.analysis.statistics import Bounds
from bench.errors import ConfigError
from bench.records.published import canonical_name
from bench.report.groups import Group
from bench.report.plane import Foreign, Placed, Plane
from bench.report.style import DENSE, GREY, Style, greyed, styles

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter, Scattergl

# Black vanishes on a dark page; this grey stands out on both.
_DENSE = Style("#767676", DENSE.mark, DENSE.symbol)


def pareto_traces(plane: Plane) -> Figure:
    """Return the plot of `plane`.

    Raises:
        ConfigError: plotly is not installed.
    """
    try:
        import plotly.graph_objects as go
    except ImportError:
        raise ConfigError(
            "The interactive page needs plotly, which is not installed.", hint="pip install plotly"
        ) from None
    theirs = [foreign.point.method for foreign in plane.published]
    known = styles(plane.methods, controls=plane.controls, theirs=theirs)
    figure = go.Figure()
    named: set[str] = set()
    if plane.placed:
        figure.add_trace(_front(plane))
    for line in plane.static_curves:
        figure.add_trace(_static(line, named))
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


def _static(line: Sequence[tuple[float, float]], named: set[str]) -> Scatter:
    import plotly.graph_objects as go

    return go.Scatter(
        x=[cost for cost, _ in line],
        y=[100 * accuracy for _, accuracy in line],
        mode="lines",
        line={"color": _DENSE.colour, "width": 2.5},
        hoverinfo="skip",
        **_legend("static curve", named),
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
    if group.dense:
        return _DENSE
    style = known[canonical_name(str(group.first["method"]))]
    return replace(style, colour=_DENSE.colour) if style.colour == DENSE.colour else style


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
        hovertext=[_lines(f"published: {point.method}", *published_cells(foreign).items())],
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


def published_cells(foreign: Foreign) -> dict[str, str]:
    """Return what is to be said of a published point, as text under titles."""
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
    if plane.view is not None:
        figure.update_xaxes(range=plane.view.costs)
        figure.update_yaxes(range=plane.view.heights)
    if plane.dense is not None:
        height = 100 * plane.dense.group.accuracy
        figure.add_hline(y=height, line={"dash": "dot", "color": GREY, "width": 1.2})
