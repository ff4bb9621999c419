"""What a figure shows, as plain data: described once, drawn by draw.py for print and by chart.js in
a page. Colours and marks are such that a colour-blind reader can distinguish them.

Owns the vocabulary of figures; the charts are described in the rooms of what they show.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bench.records.published import canonical_name

Numbers = tuple[float, ...]
Limits = tuple[float | None, float | None]

# Okabe and Ito, without the yellow that vanishes on white and the black kept for dense networks.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKS = "o^DvPX*"
GREY = "#7F7F7F"
DAGGER = "†"
CONTENDED_NOTE = f"{DAGGER} timed while other processes took part of the machine"


@dataclass(frozen=True, slots=True)
class Style:
    """How one method is drawn: a colour (#rrggbb), and a mark by matplotlib's name."""

    colour: str
    mark: str


DENSE = Style("#000000", "s")


def styles(
    ours: Iterable[str], *, controls: Iterable[str] = (), theirs: Iterable[str] = ()
) -> dict[str, Style]:
    """Return a style per method, keyed by `canonical_name`.

    Controls are black like the dense networks, each with a mark of its own; what only others ran
    is grey.

    Spelling such as "ConvNet-AIG" and "convnet_aig" is one method.
    """
    own, judges, foreign = (sorted(set(map(canonical_name, of))) for of in (ours, controls, theirs))
    found = {name: Style(GREY, mark_of(len(own) + i).mark) for i, name in enumerate(foreign)}
    found |= {name: Style(DENSE.colour, mark_of(i).mark) for i, name in enumerate(judges)}
    return found | {name: mark_of(i) for i, name in enumerate(own)}


def mark_of(number: int) -> Style:
    """Return the `number`-th style: 6 colours and 7 marks meet again only after 42."""
    return Style(_COLOURS[number % len(_COLOURS)], _MARKS[number % len(_MARKS)])


@dataclass(frozen=True, slots=True)
class Marks:
    """Points. `name` is their entry in a legend, `tips` what is said of each where it is pointed
    at; `low` and `high` are the ends of bars, `joined` draws a line through them."""

    x: Numbers
    y: Numbers
    style: Style
    name: str = ""
    low: Numbers = ()
    high: Numbers = ()
    tips: tuple[str, ...] = ()
    filled: bool = True
    joined: bool = False
    size: float = 8.0
    opacity: float = 1.0


@dataclass(frozen=True, slots=True)
class Line:
    """A line; with `steps`, level from each point to the next one's cost."""

    x: Numbers
    y: Numbers
    colour: str
    name: str = ""
    dash: Literal["solid", "dashed"] = "solid"
    opacity: float = 1.0
    steps: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars from 0, all of one width, by their middle."""

    x: Numbers
    y: Numbers
    width: float
    colour: str
    opacity: float = 1.0


Series = Marks | Line | Bars


@dataclass(frozen=True, slots=True)
class Label:
    """A name beside a point, where there is room; the first are placed first."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes. `message` stands where there is nothing to draw; a panel with a `title` has
    its own legend below that."""

    series: tuple[Series, ...]
    x_label: str = ""
    y_label: str = ""
    title: str = ""
    x_limits: Limits = (None, None)
    y_limits: Limits = (None, None)
    whole_x: bool = False
    message: str = ""
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure: its finding as a title, panels, and what must stand below. One legend stands beside
    it, or one above each panel that has a title."""

    title: str
    panels: tuple[Panel, ...]
    notes: tuple[str, ...] = ()
    columns: int = 1
    size_in: tuple[float, float] = (9.6, 6.4)
    synthetic: bool = False

    @property
    def legend_in_panels(self) -> bool:
        return any(panel.title for panel in self.panels)

    @property
    def names(self) -> list[str]:
        """The entries of the legend beside it."""
        series = (one for panel in self.panels for one in panel.series)
        named = dict.fromkeys(s.name for s in series if not isinstance(s, Bars) and s.name)
        return [] if self.legend_in_panels or len(named) == 1 else list(named)

    @property
    def alt(self) -> str:
        """What it shows, in words."""
        axes = dict.fromkeys(f"{panel.y_label} against {panel.x_label}" for panel in self.panels)
        return f"{self.title}. {'; '.join(axes)}."


def as_json(chart: Chart) -> dict[str, Any]:
    """Return what chart.js draws: only what is not as usual, each series with its kind, numbers
    with as many digits as can be seen."""
    panels = [asdict(panel) for panel in chart.panels]
    for own, panel in zip(chart.panels, panels, strict=True):
        panel["series"] = [
            {"kind": type(one).__name__}
            | {key: _short(v) for key, v in asdict(one).items() if key in "xy" or not _usual(v)}
            for one in own.series
        ]
    legend = {"columns": chart.columns, "legend_in_panels": chart.legend_in_panels}
    return {"panels": panels} | legend


def _usual(value: Any) -> bool:
    return value is False or value in ("", (), "solid")


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return [_short(item) for item in value] if isinstance(value, tuple | list) else value
