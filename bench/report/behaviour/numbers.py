"""What a network does with an image: rates of blocks, costs, difficulty, the easiest and hardest.

Pure numbers from a record and its arrays, for one seed; owns no drawing and no data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from bench.analysis.statistics import Extremes, extremes_of
from bench.errors import RecordError
from bench.plain_text import one_line
from bench.records.record import PointRecord, RunRecord
from bench.report.data.study import Network, Study

Numbers = npt.NDArray[Any]
T = TypeVar("T")
TENTHS = 10
LARGEST_SIDE = 512
MOST_SHOWN = 24
"""More networks than this are not drawn one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class PointBehaviour:
    """One operating point; `share_n` is the MACs of each image over those of the dense network,
    `by_difficulty` their quartiles and mean in tenths of the images from easy to hard, (10, 3)."""

    point: PointRecord
    share_n: Numbers | None = None
    by_difficulty: Numbers | None = None

    @property
    def spread(self) -> float:
        """The standard deviation of the cost over images."""
        return 0.0 if self.share_n is None else float(self.share_n.std())


@dataclass(frozen=True, slots=True, eq=False)
class Behaviour:
    """What is shown of one network, of its first seed. `missing` says what could not be, and why.

    `dense_gradients` are those of a dense run of its backbone at each block, by name.

    `extremes` are the cheapest and the most expensive images at `widest`, the operating point whose
    costs differ most; None where all cost the same. `maps` are the blocks that run at each of their
    pixels, twice (M, H, W); None where a network does not decide per position.
    """

    network: Network
    dense_gradients: Mapping[str, float]
    points: tuple[PointBehaviour, ...]
    widest: PointRecord
    extremes: Extremes | None
    maps: tuple[Numbers, Numbers] | None
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
    record, spec = network.record, network.record.spec
    missing: dict[str, None] = {}

    def tried(what: str, read: Callable[..., T], *args: Any) -> T | None:
        try:
            return read(*args)
        except RecordError as error:
            missing[one_line(f"{what} missing: {error.message}")] = None
            return None

    same = [
        other
        for other in dense
        if (other.spec.backbone, other.spec.dataset) == (spec.backbone, spec.dataset)
    ]
    loss_n = tried("Cost against difficulty is", _losses, record, study, same)
    gradients = tried("Gradients of the dense network are", dense_gradients, record, same)
    points = []
    for point in record.points:
        share_n = tried("Cost per image is", _costs, record, point, study)
        means = None
        if share_n is not None and loss_n is not None and len(loss_n) == len(share_n):
            means = by_difficulty(share_n, loss_n)
        points.append(PointBehaviour(point, share_n, means))
    most, extremes, maps = max(points, key=lambda one: one.spread), None, None
    if most.share_n is not None and most.spread > 1e-9:
        extremes = extremes_of(most.share_n)
        if most.point.positions_file:
            what = "Maps of where it spends its blocks are"
            maps = tried(what, position_maps, record, most.point, study, extremes)
    found = (tuple(points), most.point, extremes, maps, tuple(missing))
    return Behaviour(network, gradients or {}, *found)


def dense_gradients(record: RunRecord, dense: Sequence[RunRecord]) -> Mapping[str, float]:
    """Return the gradients of the run most like `record` among `dense`, those of its backbone and
    images: the same recipe, then the same epochs, then the same seed; of those that have gradients
    on record.

    A network's own gradients are small or 0 where it seldom runs: its rates would be compared with
    themselves.

    Raises:
        RecordError: none has gradients.
    """
    spec = record.spec
    known = [other for other in dense if other.points[0].block_gradients]
    if not known:
        none = f"no dense {spec.backbone.name} was run on these images"
        raise RecordError(why_no_gradients(dense[0].points[0], run=dense[0].run) if dense else none)

    def likeness(other: RunRecord) -> tuple[bool, bool, bool]:
        own, its = spec.budget, other.spec.budget
        return its.recipe == own.recipe, its.epochs == own.epochs, other.spec.seed == spec.seed

    return max(known, key=likeness).points[0].block_gradients


def why_no_gradients(point: PointRecord, *, run: str) -> str:
    """Return what is to be said where an operating point has no gradients."""
    older = f"the record is older than this number, and 'bench evaluate {run}' adds it"
    return point.block_gradients_reason or older


def _losses(record: RunRecord, study: Study, dense: Sequence[RunRecord]) -> Numbers:
    """Return the dense network's loss on each test image, (N,): of the run that the record names,
    or else of another one in `dense`.

    Raises:
        RecordError: no dense network has them; the message says which lacks.
    """
    named = {p.dynamics.difficulty_of for p in record.points if p.dynamics is not None}
    reason = f"no dense {record.spec.backbone.name} was run on these images"
    for other in sorted(dense, key=lambda other: other.run not in named):
        try:
            loss_n = study.numbers(other, other.points[0].arrays_file, "loss_n", axes=1)
        except RecordError as error:
            reason = error.message
            continue
        if len(loss_n) == record.test_images:
            return loss_n
    raise RecordError(reason)


def _costs(record: RunRecord, point: PointRecord, study: Study) -> Numbers:
    """Return the cost of each image over that of the dense network, (N,).

    Raises:
        RecordError: it is not on record.
    """
    macs_n = study.numbers(record, point.arrays_file, "macs_n", axes=1)
    share_n: Numbers = macs_n.astype(np.float64) / max(record.dense_macs, 1)
    return share_n


def by_difficulty(share_n: Numbers, loss_n: Numbers) -> Numbers:
    """Return the quartiles, or the mean where that lies outside, and the mean of the cost in each
    tenth of the images by their loss, easy first, (10, 3)."""
    found = []
    for part in np.array_split(np.argsort(loss_n, kind="stable"), min(TENTHS, len(loss_n))):
        low, high = np.quantile(share_n[part], (0.25, 0.75))
        mean = share_n[part].mean()
        found.append((min(low, mean), max(high, mean), mean))
    return np.array(found)


def position_maps(
    record: RunRecord, point: PointRecord, study: Study, images: Extremes
) -> tuple[Numbers, Numbers]:
    """Return the maps of the cheapest and the most expensive images, (M, H, W) each.

    Raises:
        RecordError: they are not on record, or of other images.
    """
    image_m = study.numbers(record, point.positions_file, "image_m", axes=1)
    maps_mhw = study.numbers(record, point.positions_file, "blocks_mhw", axes=3).astype(np.float64)
    if len(image_m) != len(maps_mhw) or max(maps_mhw.shape[1:]) > LARGEST_SIDE:
        raise RecordError("the file of maps does not fit the record.")
    places = {int(image): place for place, image in enumerate(image_m)}
    if not places.keys() >= {*images.cheapest, *images.most_expensive}:
        raise RecordError("the maps on record are of other images.")
    low, high = (maps_mhw[[places[n] for n in chosen]] for chosen in images)
    return low, high
