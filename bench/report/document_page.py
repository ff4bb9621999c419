"""The report as one HTML page that needs no network: template, style and script lie beside this.

Owns how a Document becomes HTML; everything in it that comes from records is escaped by the
template. Loads plotly, matplotlib and jinja2 only when a page is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError
from bench.plain_text import plain
from bench.records.record import PointRecord
from bench.report.behaviour import Behaviour, behaviour_table
from bench.report.behaviour_figures import (
    TestImages,
    behaviour_alt,
    behaviour_figure,
    strip_uri,
    svg_uri,
)
from bench.report.document import Document, ranks_table, results_table
from bench.report.front_certainty import area_table, front_table
from bench.report.gradients import together_words
from bench.report.headline import headline as plane_headline
from bench.report.page import plot_html
from bench.report.pairs import pairs_table
from bench.report.plane import Plane
from bench.report.position_figure import position_alt, position_caption, position_figure
from bench.report.rank_figure import rank_figure
from bench.report.ranks import headline as ranks_headline
from bench.report.time_figure import headline as time_headline
from bench.report.time_figure import time_figure
from bench.report.verdict_lines import VerdictLine

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
    "How often each block runs; the magnitude of the gradient there, as defined above (grey: the "
    "dense network); cost of "
    "single images (dashed: mean); mean cost against difficulty, the loss of the dense network "
    "(band: the middle half)."
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


@dataclass(frozen=True, slots=True)
class Picture:
    """An image in the page, as a data URI, with what it shows in words."""

    uri: str
    alt: str
    caption: str


def document_page(
    document: Document, *, images: TestImages | None = None, images_reason: str = ""
) -> str:
    """Return the page. `images` are the test images, if they are at hand; else say why not.

    Raises:
        ConfigError: plotly, matplotlib or jinja2 is not installed.
    """
    template = _template()
    return template.render(
        document=document,
        heading=f"skipbench on {document.title or document.dataset or 'no data set'}",
        css=_asset("document.css"),
        script=_asset("document.js"),
        plotly=_markup(_plotly_script()),
        verdicts=_by_kind(document.verdicts),
        charts=_charts(document),
        results=results_table(document),
        front=front_table(document.fronts),
        areas=area_table(document.fronts),
        pairs=pairs_table(document.pairs),
        gradient=_GRADIENT,
        behaviour_numbers=behaviour_table(document.behaviours),
        behaviours=[_shown(behaviour, images) for behaviour in document.behaviours],
        images_reason="" if images is not None else images_reason,
        latency=_latency_pictures(document),
        ranks=None if document.ranking is None else ranks_table(document.ranking),
        making=[(_HEADINGS[table.name], table) for table in document.making],
    )


def _template() -> Template:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        raise ConfigError(
            "The report needs jinja2, which is not installed.", hint="pip install jinja2"
        ) from None
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_tamed,
    )
    return environment.from_string(_read("document.html"))


def _tamed(value: Any) -> Any:
    """Return a text with what is not printed written out; what is HTML already stays."""
    is_text = isinstance(value, str) and not hasattr(value, "__html__")
    return plain(value) if is_text else value


def _read(name: str) -> str:
    return files("bench.report").joinpath(name).read_text(encoding="utf-8")


def _asset(name: str) -> Any:
    return _markup(_read(name))


def _markup(html: str) -> Any:
    from markupsafe import Markup

    return Markup(html)


def _plotly_script() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ConfigError(
            "The report needs plotly, which is not installed.", hint="pip install plotly"
        ) from None
    return str(get_plotlyjs())


def _by_kind(lines: Sequence[VerdictLine]) -> list[tuple[str, list[VerdictLine]]]:
    kinds = (("Methods", False), ("Controls", True))
    found = [(name, [line for line in lines if line.control is kind]) for name, kind in kinds]
    return [(name, members) for name, members in found if members]


def _charts(document: Document) -> Mapping[str, Any]:
    time = document.by_time
    return {
        "macs": _chart(document.by_macs, "plot-macs", ()),
        "time": None if time is None else _chart(time, "plot-time", (_OTHER_ROUNDS,)),
    }


def _chart(plane: Plane, div_id: str, more: Sequence[str]) -> Mapping[str, Any]:
    line = "thick grey line: the static curve, straight between the best dense networks"
    notes = [note for note in plane.notes() if not note.startswith("thin lines")]
    return {
        "headline": plane_headline(plane),
        "html": _markup(plot_html(plane, div_id=div_id)),
        "notes": [*([line] if plane.static_curves else []), *notes, *more],
    }


def _shown(behaviour: Behaviour, images: TestImages | None) -> Mapping[str, Any]:
    record = behaviour.record
    return {
        "label": f"{behaviour.label}{' (control)' if behaviour.control else ''}",
        "uri": svg_uri(behaviour_figure(behaviour)),
        "alt": behaviour_alt(behaviour),
        "caption": f"{_PANELS} Seed {record.spec.seed}; {record.test_images:,} test images.",
        "strips": _strips(behaviour, images),
        "maps": _map_pictures(behaviour, images),
        "facts": "; ".join(_facts(shown.point) for shown in behaviour.points),
        "sentences": [*_together(behaviour), *behaviour.missing, *_same_cost(behaviour)],
    }


def _facts(point: PointRecord) -> str:
    masks = "1 mask" if point.distinct_masks == 1 else f"{point.distinct_masks:,} distinct masks"
    loss = None if point.dynamics is None else point.dynamics.shuffled_loss
    shuffled = "" if loss is None else f", shuffled {-100 * loss:+.2f} points"
    return f"{point.name}{': ' if point.name else ''}{masks}{shuffled}"


def _same_cost(behaviour: Behaviour) -> list[str]:
    known = any(shown.share_n is not None for shown in behaviour.points)
    return ["All images cost the same."] if known and behaviour.extremes is None else []


def _together(behaviour: Behaviour) -> list[str]:
    return list(dict.fromkeys(together_words(shown.together) for shown in behaviour.points))


def _map_pictures(behaviour: Behaviour, images: TestImages | None) -> list[Picture]:
    if behaviour.maps is None:
        return []
    uri = svg_uri(position_figure(behaviour, images))
    alt, caption = position_alt(behaviour, images), position_caption(behaviour, images)
    return [Picture(uri, alt, caption)]


def _strips(behaviour: Behaviour, images: TestImages | None) -> list[Picture]:
    found = behaviour.extremes
    if found is None or images is None or behaviour.maps is not None:
        return []  # a figure with maps has the images in it
    at = f" at {found.point}" if found.point else ""
    parts = (("lowest", found.cheapest, found.as_cheap), ("highest", found.dearest, found.as_dear))
    pictures = []
    for word, positions, alike in parts:
        names = ", ".join(images.names(positions))
        share = f"; {alike:,} images share the {word}" if alike > 1 else ""
        caption = f"{len(positions)} images of {word} cost{at}{share}."
        alt = f"{len(positions)} test images of {word} cost: {names}"
        pictures.append(Picture(strip_uri(images, positions), alt, caption))
    return pictures


def _latency_pictures(document: Document) -> list[Picture]:
    found = []
    if document.ranking is not None:
        line = f"{ranks_headline(document.ranking)}."
        uri = svg_uri(rank_figure(document.ranking))
        caption = "By MACs in the middle, by time at the sides; fewest and fastest on top."
        found.append(Picture(uri, f"Ranks by MACs and by time. {line}", caption))
    if any(not samples.network.dense for samples in document.samples):
        figure = time_figure(document.samples, without_samples=document.without_samples)
        line = f"{time_headline(document.samples)}."
        caption = "Does an image that runs less also take less time?"
        found.append(Picture(svg_uri(figure), f"Time against executed MACs. {line}", caption))
    return found
