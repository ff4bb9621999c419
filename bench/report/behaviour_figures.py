"""Drawings of what a network does with an image, and strips of the cheapest and dearest images.

The numbers come from behaviour.py; this module only draws. Figures in a page are SVG that follows
the reader's light or dark scheme.
"""

from __future__ import annotations

import base64
import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from bench.records.published import canonical_name
from bench.records.record import PointRecord
from bench.report.behaviour import Behaviour, PointBehaviour
from bench.report.canvas import frame, literal, new_figure, stamp
from bench.report.masks import draw_bars, draw_costs, draw_line, point_label, shade_fixed
from bench.report.style import GREY, Style, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GAP_PX = 2
_INK, _PAPER = "var(--ink)", "var(--paper)"
_IN_ATTRIBUTES = " !$()*+,-./:;=?@[]^_{|}~"
_SCHEMES = (
    "<style>:root{--ink:#1a1a1a;--paper:#ffffff;fill:var(--ink)}"
    "@media (prefers-color-scheme:dark){:root{--ink:#ececec;--paper:#16181c}}</style>"
)


@dataclass(frozen=True, slots=True, eq=False)
class TestImages:
    """The test images of a data set at hand: (N, H, W, C) uint8, labels (N,), names by label."""

    __test__ = False  # it is no test, whatever pytest reads in its name

    images_nhwc: npt.NDArray[np.uint8]
    labels_n: npt.NDArray[np.int64]
    class_names: tuple[str, ...]

    def names(self, positions: Sequence[int]) -> list[str]:
        """Return the classes of the images at `positions`."""
        return [self.class_names[int(self.labels_n[n])] for n in positions]


@literal
def behaviour_figure(behaviour: Behaviour) -> Figure:
    """Return four panels: rate and gradient of each block, cost per image, and by difficulty.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    figure = new_figure(11.0, 6.4)
    (rates, gradients), (costs, difficulty) = figure.subplots(2, 2)
    points = behaviour.points
    known = styles(point_label(shown.point) for shown in points)
    for axes in (rates, gradients):
        shade_fixed(axes, points[0].point)
    of_dense = behaviour.dense.of_block or {}
    gradients.bar(*_by_place(points[0].point, of_dense), color=GREY)
    for shown in points:
        style = _style(shown, known)
        _draw_point((rates, costs, difficulty), shown, style, of=len(points))
        own = _by_place(shown.point, shown.point.block_gradients)
        gradients.plot(*own, color=style.colour, marker=style.mark, linewidth=1.2)
    gradients.set_ylim(bottom=0)
    frame(rates, "block (grey: always runs)", "share of images that run it")
    frame(gradients, "block (bars: the dense network)", "gradient, root mean square")
    frame(costs, "MACs per image / dense", "share of images")
    frame(difficulty, "tenth of the images, easiest to hardest", "MACs per image / dense")
    rates.set_ylim(-0.04, 1.06)
    # The same range for all networks: what hardly varies must not look like a trend.
    difficulty.set_ylim(0, 1.04 * _dearest(points))
    gradients.set_xlim(rates.get_xlim())
    for axes in (rates, gradients, difficulty):
        axes.xaxis.get_major_locator().set_params(integer=True)
    _say_what_is_missing(gradients, [of_dense or None], behaviour.dense.reason)
    _say_what_is_missing(costs, [p.share_n for p in points])
    _say_what_is_missing(difficulty, [p.by_difficulty for p in points])
    if len(points) > 1:
        handles = rates.get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=6, frameon=False)
    if behaviour.record.synthetic:
        stamp(rates, "synthetic data")
    return figure


def behaviour_alt(behaviour: Behaviour) -> str:
    """Return in words what the figure of a network shows."""
    parts = []
    for shown in behaviour.points:
        rates = ", ".join(f"{100 * rate:.0f}" for rate in shown.point.block_rates.values())
        name = f"{point_label(shown.point)}: " if shown.point.name else ""
        words = f"{_gradient_words(shown)}{_cost_words(shown)}"
        parts.append(f"{name}blocks run by {rates} % of the images{words}")
    return f"{behaviour.label}. {'; '.join(parts)}."


def svg_uri(figure: Figure) -> str:
    """Return the figure as a data URI of an SVG whose black and white follow the page's scheme."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "skipbench", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = re.sub(r"<!--.*?-->", "", buffer.getvalue(), flags=re.DOTALL)
    for colour in ("#000000", "#333333", "#444444"):
        text = text.replace(colour, _INK)
    text = text.replace("#ffffff", _PAPER)
    text = re.sub(r"(<svg [^>]*>)", rf"\1{_SCHEMES}", text, count=1)
    # As text it takes a fifth less than in base64.
    return f"data:image/svg+xml,{quote(' '.join(text.split()), safe=_IN_ATTRIBUTES)}"


def strip_uri(images: TestImages, positions: Sequence[int]) -> str:
    """Return the images at `positions` side by side as a data URI of a PNG."""
    buffer = io.BytesIO()
    image_strip(images, positions).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def image_strip(images: TestImages, positions: Sequence[int]) -> Any:
    """Return the images at `positions` side by side as a picture with clear gaps."""
    from PIL import Image

    _, height, width, _ = images.images_nhwc.shape
    step = width + _GAP_PX
    strip = Image.new("RGBA", (step * len(positions) - _GAP_PX, height), (0, 0, 0, 0))
    for place, position in enumerate(positions):
        pixels = images.images_nhwc[position]
        grey = pixels.shape[2] == 1
        one = Image.fromarray(pixels[:, :, 0] if grey else np.ascontiguousarray(pixels[:, :, :3]))
        strip.paste(one.convert("RGBA"), (place * step, 0))
    return strip


def _style(shown: PointBehaviour, known: dict[str, Style]) -> Style:
    return known[canonical_name(point_label(shown.point))]


def _draw_point(
    panels: tuple[Axes, Axes, Axes], shown: PointBehaviour, style: Style, *, of: int
) -> None:
    rates, costs, difficulty = panels
    draw = draw_bars if of == 1 else draw_line
    draw(rates, shown.point, style)
    if shown.share_n is not None:
        draw_costs(costs, shown.share_n, style)
    if shown.by_difficulty is None:
        return
    low, _, high, mean = shown.by_difficulty.T
    tenths = np.arange(1, len(mean) + 1)
    difficulty.plot(tenths, mean, color=style.colour, marker=style.mark, linewidth=1.2)
    if of == 1:
        difficulty.fill_between(tenths, low, high, color=style.colour, alpha=0.2, linewidth=0)


def _by_place(point: PointRecord, gradients: Mapping[str, float]) -> tuple[list[int], list[float]]:
    """Return the places of the blocks that have a gradient, and the gradients."""
    places = {name: place for place, name in enumerate(point.block_rates) if name in gradients}
    return list(places.values()), [gradients[name] for name in places]


def _gradient_words(shown: PointBehaviour) -> str:
    gradients = shown.point.block_gradients
    words = ""
    if gradients:
        words = f", gradients of {', '.join(f'{value:.1e}' for value in gradients.values())}"
    found = shown.together
    if found.over_all is None:
        return words
    rank = f"{found.over_all.value:+.2f} over {found.blocks} blocks"
    return f"{words}, rank correlation of rates with the dense network's gradients {rank}"


def _dearest(points: Sequence[PointBehaviour]) -> float:
    costs = [float(shown.share_n.max()) for shown in points if shown.share_n is not None]
    return max([1.0, *costs])


def _say_what_is_missing(axes: Axes, values: Sequence[object], reason: str = "") -> None:
    if any(value is not None for value in values):
        return
    axes.set(xticks=[], yticks=[])
    text = textwrap.fill(reason or "not on record", 44)
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center")


def _cost_words(shown: PointBehaviour) -> str:
    if shown.share_n is None:
        return ""
    low, high = float(shown.share_n.min()), float(shown.share_n.max())
    words = f", cost {low:.2f} to {high:.2f} of the dense network"
    if shown.by_difficulty is not None:
        mean = shown.by_difficulty[:, 3]
        words += f", {mean[0]:.2f} on the easiest tenth, {mean[-1]:.2f} on the hardest"
    return words
