"""What a network does with an image: rates of blocks, costs, difficulty, the easiest and hardest.

Pure numbers from a record and its arrays, for one seed; owns no drawing and no data set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from bench.analysis.statistics import extremes_of
from bench.errors import RecordError
from bench.plain_text import one_line
from bench.records.arrays import Arrays, numbers_in
from bench.records.record import PointRecord, RunRecord
from bench.report.behaviour.gradients import (
    DenseGradients,
    RatesAndGradients,
    dense_gradients,
    of_its_kind,
    rates_and_gradients,
)
from bench.report.data.study import Network, Study

Numbers = npt.NDArray[Any]
T = TypeVar("T")
TENTHS = 10
LARGEST_SIDE = 512
MOST_SHOWN = 24
"""More networks than this are not drawn one by one."""


@dataclass(frozen=True, slots=True)
class ExtremeImages:
    """The cheapest and the most expensive images of one operating point: positions in the test set.

    `as_cheap` and `as_expensive` count the images that share the lowest and the highest cost.
    """

    point: str
    cheapest: tuple[int, ...]
    most_expensive: tuple[int, ...]
    as_cheap: int
    as_expensive: int


@dataclass(frozen=True, slots=True, eq=False)
class PositionMaps:
    """The blocks that run at each pixel of the cheapest and the most expensive images, (M, H, W).

    `of` is how many blocks the network has.
    """

    cheapest_mhw: Numbers
    most_expensive_mhw: Numbers
    of: int

    @property
    def span(self) -> tuple[float, float]:
        """The scale that all maps share: whole blocks, below the least and above the most."""
        both = (self.cheapest_mhw, self.most_expensive_mhw)
        low, high = min(float(m.min()) for m in both), max(float(m.max()) for m in both)
        return float(np.floor(low)), float(max(np.ceil(high), np.floor(low) + 1))


@dataclass(frozen=True, slots=True, eq=False)
class PointBehaviour:
    """One operating point; `share_n` is the MACs of each image over those of the dense network,
    `by_difficulty` their quartiles and mean in tenths of the images from easy to hard, (10, 3),
    `together` how its rates go with the dense network's gradients.
    `per_position`: images run parts of a block."""

    point: PointRecord
    together: RatesAndGradients
    share_n: Numbers | None = None
    by_difficulty: Numbers | None = None
    per_position: bool = False

    @property
    def spread(self) -> float:
        """The standard deviation of the cost over images."""
        return 0.0 if self.share_n is None else float(self.share_n.std())


@dataclass(frozen=True, slots=True, eq=False)
class Behaviour:
    """What is shown of one network, of its first seed. `missing` says what could not be, and why;
    `maps` are None where a network does not decide per position."""

    network: Network
    dense: DenseGradients
    points: tuple[PointBehaviour, ...]
    extremes: ExtremeImages | None
    maps: PositionMaps | None
    missing: tuple[str, ...]

    @property
    def record(self) -> RunRecord:
        return self.network.record

    @property
    def label(self) -> str:
        return self.network.label


def behaviours_of(study: Study) -> tuple[list[Behaviour], list[str]]:
    """Return the behaviour of the networks with gates, and the labels of those left out.

    Of several seeds the first is shown. Where there are more than MOST_SHOWN networks, the most
    accurate of each method on each backbone are.
    """
    gated = [network for network in study.networks if network.gated]
    chosen = gated
    if len(gated) > MOST_SHOWN:
        by_accuracy = sorted(gated, key=lambda n: max(p.accuracy for p in n.record.points))
        chosen = list({(n.first.method, n.backbone): n for n in by_accuracy}.values())
    left_out = [network.label for network in gated if network not in chosen]
    dense = [record for network in study.networks if network.dense for record in network.records]
    shown = sorted(chosen, key=lambda network: (network.control, network.label))
    return [_behaviour(network, study, dense) for network in shown], left_out


def _behaviour(network: Network, study: Study, dense: Sequence[RunRecord]) -> Behaviour:
    record = network.record
    missing: dict[str, None] = {}

    def tried(what: str, read: Callable[..., T], *args: Any) -> T | None:
        try:
            return read(*args)
        except RecordError as error:
            missing[one_line(f"{what} missing: {error.message}")] = None
            return None

    same = of_its_kind(record, dense)
    loss_n = tried("Cost against difficulty is", _losses, record, study, same)
    gradients = dense_gradients(record, same)
    points = []
    for point in record.points:
        together = rates_and_gradients(point, gradients, backbone=record.spec.backbone.name)
        found = tried("Cost per image is", _costs, record, point, study, loss_n)
        points.append(PointBehaviour(point, together, *(found or ())))
    extremes, maps = None, None
    most = max(points, key=lambda one: one.spread)
    if most.share_n is not None and most.spread > 1e-9:
        as_cheap, as_expensive = (
            int(np.isclose(most.share_n, end, rtol=1e-9).sum())
            for end in (most.share_n.min(), most.share_n.max())
        )
        images, name = extremes_of(most.share_n), one_line(most.point.name)
        extremes = ExtremeImages(name, *images, as_cheap, as_expensive)
        if most.point.positions_file or most.per_position:
            what = "Maps of where it spends its blocks are"
            maps = tried(what, position_maps, record, most.point, study, extremes)
    return Behaviour(network, gradients, tuple(points), extremes, maps, tuple(missing))


def _losses(record: RunRecord, study: Study, dense: Sequence[RunRecord]) -> Numbers:
    """Return the dense network's loss on each test image, (N,): of the run that the record names,
    or else of another one in `dense`.

    Raises:
        RecordError: no dense network has them; the message says which lacks.
    """
    named = {p.dynamics.difficulty_of for p in record.points if p.dynamics is not None}
    candidates = [o for o in study.records if o.run in named and o.points]
    reason = f"no dense {record.spec.backbone.name} was run on these images"
    for other in (*candidates, *dense):
        try:
            loss_n = study.numbers(other, other.points[0].arrays_file, "loss_n", axes=1)
        except RecordError as error:
            reason = error.message
            continue
        if len(loss_n) == record.test_images:
            return loss_n
    raise RecordError(reason)


def _costs(
    record: RunRecord, point: PointRecord, study: Study, loss_n: Numbers | None
) -> tuple[Numbers, Numbers | None, bool]:
    """Return the cost of each image, that by difficulty, and whether images run parts of a block.

    Raises:
        RecordError: the costs are not on record.
    """
    arrays = study.arrays(record, point.arrays_file)
    share_n = numbers_in(arrays, "macs_n", axes=1).astype(np.float64) / max(record.dense_macs, 1)
    means = None
    if loss_n is not None and len(loss_n) == len(share_n):
        means = by_difficulty(share_n, loss_n)
    return share_n, means, decides_per_position(arrays)


def by_difficulty(share_n: Numbers, loss_n: Numbers) -> Numbers:
    """Return the quartiles, or the mean where that lies outside, and the mean of the cost in each
    tenth of the images by their loss, easy first, (10, 3)."""
    found = []
    for part in np.array_split(np.argsort(loss_n, kind="stable"), min(TENTHS, len(loss_n))):
        low, high = np.quantile(share_n[part], (0.25, 0.75))
        mean = share_n[part].mean()
        found.append((min(low, mean), max(high, mean), mean))
    return np.array(found)


def decides_per_position(arrays: Arrays) -> bool:
    """Tell from the trace whether images run parts of a unit."""
    executed_nu = arrays.get("executed_nu")
    if executed_nu is None or executed_nu.dtype.kind != "f":
        return False
    return bool(((executed_nu > 0) & (executed_nu < 1)).any())


def position_maps(
    record: RunRecord, point: PointRecord, study: Study, images: ExtremeImages
) -> PositionMaps:
    """Return the maps of these images of one operating point.

    Raises:
        RecordError: they are not on record; the message says why and what would help.
    """
    if not point.positions_file:
        raise RecordError(
            f"the record is older than them, and 'bench evaluate {record.run}' adds them."
        )
    image_m = study.numbers(record, point.positions_file, "image_m", axes=1)
    maps_mhw = study.numbers(record, point.positions_file, "blocks_mhw", axes=3).astype(np.float64)
    if len(image_m) != len(maps_mhw) or max(maps_mhw.shape[1:]) > LARGEST_SIDE:
        raise RecordError("the file of maps does not fit the record.")
    places = {int(image): place for place, image in enumerate(image_m)}
    if not places.keys() >= {*images.cheapest, *images.most_expensive}:
        raise RecordError("the maps on record are of other images.")
    low, high = ([places[n] for n in chosen] for chosen in (images.cheapest, images.most_expensive))
    return PositionMaps(maps_mhw[low], maps_mhw[high], len(point.block_rates))
