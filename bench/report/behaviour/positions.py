"""Where networks that decide per position spend their blocks, of the images that are shown.

Reads the maps that an evaluation left beside the record; owns no drawing and no images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.errors import RecordError
from bench.records.arrays import Arrays, numbers_in, read_arrays
from bench.records.record import PointRecord, RunRecord
from bench.records.store import RunStore

LARGEST_SIDE = 512


@dataclass(frozen=True, slots=True, eq=False)
class PositionMaps:
    """The blocks that run at each pixel of the cheapest and the most expensive images, (M, H, W).

    `of` is how many blocks the network has.
    """

    cheapest_mhw: npt.NDArray[Any]
    most_expensive_mhw: npt.NDArray[Any]
    of: int

    @property
    def span(self) -> tuple[float, float]:
        """The scale that all maps share: whole blocks, below the least and above the most."""
        both = (self.cheapest_mhw, self.most_expensive_mhw)
        low, high = min(float(m.min()) for m in both), max(float(m.max()) for m in both)
        return float(np.floor(low)), float(max(np.ceil(high), np.floor(low) + 1))


def position_maps(
    record: RunRecord,
    point: PointRecord,
    store: RunStore,
    *,
    cheapest: Sequence[int],
    most_expensive: Sequence[int],
) -> PositionMaps:
    """Return the maps of these images of one operating point.

    Raises:
        RecordError: they are not on record; the message says why and what would help.
    """
    if not point.positions_file:
        raise RecordError(
            f"the record is older than them, and 'bench evaluate {record.run}' adds them"
        )
    arrays = read_arrays(store.folder_of(record), point.positions_file)
    image_m = numbers_in(arrays, "image_m", axes=1)
    maps_mhw = numbers_in(arrays, "blocks_mhw", axes=3).astype(np.float64)
    if len(image_m) != len(maps_mhw) or max(maps_mhw.shape[1:]) > LARGEST_SIDE:
        raise RecordError("the file of maps does not fit the record")
    places = {int(image): place for place, image in enumerate(image_m)}
    if not places.keys() >= {*cheapest, *most_expensive}:
        raise RecordError("the maps on record are of other images")
    low, high = ([places[image] for image in chosen] for chosen in (cheapest, most_expensive))
    return PositionMaps(maps_mhw[low], maps_mhw[high], len(point.block_rates))


def decides_per_position(arrays: Arrays) -> bool:
    """Tell from the trace whether images run parts of a unit."""
    executed_nu = arrays.get("executed_nu")
    if executed_nu is None or executed_nu.dtype.kind != "f":
        return False
    return bool(((executed_nu > 0) & (executed_nu < 1)).any())
