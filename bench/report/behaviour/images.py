"""The cheapest and the most expensive images, and maps of where blocks run on them, as pictures.
Which images, and the maps, come from numbers.py."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.plain_text import one_line
from bench.report.behaviour.numbers import Behaviour, Numbers

Pixels = npt.NDArray[np.uint8]
_GAP_PX = 2
_COLOURS = "viridis"


@dataclass(frozen=True, slots=True, eq=False)
class TestImages:
    """The test images of a data set at hand: (N, H, W, C) uint8, labels (N,), names by label."""

    __test__ = False  # it is no test, whatever pytest reads in its name

    images_nhwc: Pixels
    labels_n: npt.NDArray[np.int64]
    class_names: tuple[str, ...]

    def names(self, positions: Sequence[int]) -> list[str]:
        """Return the classes of the images at `positions`."""
        return [self.class_names[int(self.labels_n[n])] for n in positions]


@dataclass(frozen=True, slots=True)
class Picture:
    """A strip of images as a PNG, with what it shows in words; `end` is "lowest" or "highest"."""

    end: str
    png: bytes
    caption: str

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


def pictures(behaviour: Behaviour, images: TestImages | str) -> list[Picture]:
    """Return the strips of the extreme images, with maps below each where there are any; nothing
    where all images cost the same, or neither images (but a reason) nor maps are at hand.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    found, maps = behaviour.extremes, behaviour.maps
    if found is None or (isinstance(images, str) and maps is None):
        return []
    at, made = f" at {behaviour.widest.name}" if behaviour.widest.name else "", []
    for place, (end, positions) in enumerate(zip(("lowest", "highest"), found, strict=True)):
        rows, caption = [], f"{len(positions)} test images of {end} cost{at}"
        if not isinstance(images, str):
            rows.append(image_strip(images, positions))
            caption += f" ({', '.join(images.names(positions))})"
        if maps is not None:
            low, high = span_of(maps)
            rows.append(_map_strip(maps[place], low, high))
            of = len(behaviour.widest.block_rates)
            caption += f". Blocks that run at each pixel: {low:g} dark, {high:g} bright, of {of}"
        made.append(Picture(end, _stacked(rows), one_line(f"{caption}.", longest=2000)))
    return made


def span_of(maps: Sequence[Numbers]) -> tuple[float, float]:
    """Return the scale that maps share: whole blocks, below the least and above the most."""
    low, high = min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)
    return float(np.floor(low)), float(max(np.ceil(high), np.floor(low) + 1))


def image_strip(images: TestImages, positions: Sequence[int]) -> Pixels:
    """Return the images at `positions` side by side with clear gaps, (H, W, 4) uint8."""
    pixels = images.images_nhwc[list(positions)]
    rgb = np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels[..., :3]
    return _side_by_side(np.pad(rgb, [(0, 0)] * 3 + [(0, 1)], constant_values=255))


def _map_strip(maps_mhw: Numbers, low: float, high: float) -> Pixels:
    """Return maps (M, H, W) side by side, in the colours of the figure."""
    from matplotlib import colormaps

    return _side_by_side(colormaps[_COLOURS]((maps_mhw - low) / (high - low), bytes=True))


def _side_by_side(rgba_nhwc: Pixels) -> Pixels:
    spaced = np.pad(rgba_nhwc, ((0, 0), (0, 0), (0, _GAP_PX), (0, 0)))
    return np.concatenate(list(spaced), axis=1)[:, :-_GAP_PX]


def _stacked(rows: Sequence[Pixels]) -> bytes:
    """Return strips below each other as a PNG."""
    from PIL import Image

    width = max(row.shape[1] for row in rows)
    spaced = [np.pad(r, ((0, _GAP_PX), (0, width - r.shape[1]), (0, 0))) for r in rows]
    buffer = io.BytesIO()
    whole = Image.fromarray(np.concatenate(spaced)[:-_GAP_PX], "RGBA")
    whole.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
