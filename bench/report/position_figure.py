"""The figure of where blocks run: the cheapest and dearest images, and a map below each.

The maps come from positions.py; this module only draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.plain_text import one_line
from bench.report.behaviour import Behaviour
from bench.report.behaviour_figures import TestImages, image_strip
from bench.report.canvas import literal, new_figure, stamp

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GAP_PX = 2
_COLOURS = "viridis"


@literal
def position_figure(behaviour: Behaviour, images: TestImages | None) -> Figure:
    """Return rows of images and of their maps, all maps on one scale; without images, maps alone.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    maps, extremes = behaviour.maps, behaviour.extremes
    assert maps is not None and extremes is not None
    parts = (
        ("lowest cost", extremes.cheapest, maps.cheapest_mhw),
        ("highest cost", extremes.dearest, maps.dearest_mhw),
    )
    rows = 2 if images is None else 4
    figure = new_figure(11.0, 1.15 * rows + 0.2)
    axes: list[Axes] = list(figure.subplots(rows, 1))
    waiting = iter(axes)
    for word, positions, maps_mhw in parts:
        if images is not None:
            one = next(waiting)
            one.imshow(np.asarray(image_strip(images, positions)), interpolation="nearest")
            one.set_ylabel(word, rotation=0, ha="right", va="center")
        one = next(waiting)
        low, high = maps.span
        shown = one.imshow(
            _side_by_side(maps_mhw), vmin=low, vmax=high, cmap=_COLOURS, interpolation="nearest"
        )
        label = "blocks run" if images is not None else f"{word}:\nblocks run"
        one.set_ylabel(label, rotation=0, ha="right", va="center")
    for one in axes:
        one.set(xticks=[], yticks=[])
        one.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=axes, shrink=0.9, pad=0.01)
    bar.set_label(f"blocks run at a pixel, of {maps.of}")
    bar.outline.set_visible(False)
    if behaviour.record.synthetic:
        stamp(axes[0], "synthetic data")
    return figure


def position_alt(behaviour: Behaviour, images: TestImages | None) -> str:
    """Return in words what the figure shows."""
    maps, extremes = behaviour.maps, behaviour.extremes
    assert maps is not None and extremes is not None
    parts = []
    for word, positions, maps_mhw in (
        ("lowest", extremes.cheapest, maps.cheapest_mhw),
        ("highest", extremes.dearest, maps.dearest_mhw),
    ):
        names = "" if images is None else f" ({', '.join(images.names(positions))})"
        least, most = float(maps_mhw.min()), float(maps_mhw.max())
        parts.append(
            f"{len(positions)} test images of {word} cost{names} run {maps_mhw.mean():.1f} of "
            f"{maps.of} blocks on average, {least:g} to {most:g} at a single pixel"
        )
    return one_line(f"{behaviour.label}. Maps of the blocks that run: {'; '.join(parts)}.")


def position_caption(behaviour: Behaviour, images: TestImages | None) -> str:
    """Return what the figure is."""
    extremes = behaviour.extremes
    assert extremes is not None
    where = "" if images is None else ", below each image"
    alike = (("lowest", extremes.as_cheap), ("highest", extremes.as_dear))
    shared = "".join(f" {n:,} images share the {word} cost." for word, n in alike if n > 1)
    return (
        f"Blocks that run at each pixel{where}: half a block where only its first convolution "
        "does, for a neighbour; a position of a later stage covers 4 or 16 pixels. The "
        f"{len(extremes.cheapest)} images of lowest and of highest cost, one scale for all.{shared}"
    )


def _side_by_side(maps_mhw: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return maps (M, H, W) in a row (H, M * (W + gap) - gap); gaps are not a number."""
    maps = np.asarray(maps_mhw, dtype=np.float64)
    spaced = np.pad(maps, ((0, 0), (0, 0), (0, _GAP_PX)), constant_values=np.nan)
    row: npt.NDArray[np.float64] = np.concatenate(list(spaced), axis=1)[:, :-_GAP_PX]
    return row
