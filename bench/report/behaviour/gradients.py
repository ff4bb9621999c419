"""Do the blocks that run often have the larger gradient in the dense network? In numbers and words.

The gradients are those of a dense run of the same backbone and data: a network's own are small or 0
where it seldom runs, so its rates would be compared with themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.analysis.statistics import Correlation, rank_correlation_within
from bench.errors import BenchError
from bench.records.record import PointRecord, RunRecord

_FEWEST = 4
_NONE_WITHIN = "one stage, or one rate within each"
_CLASSES, _SIDE = 2, 224  # stages depend on neither


@dataclass(frozen=True, slots=True)
class DenseGradients:
    """The gradient at each block of a dense run, by name; none with the reason."""

    of_block: Mapping[str, float] | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RatesAndGradients:
    """Spearman's correlation of rates with the dense network's gradients over `blocks` gated
    blocks: over all of them, and within the stages of the backbone. None: no number, `reason`."""

    blocks: int = 0
    over_all: Correlation | None = None
    within_stages: Correlation | None = None
    reason: str = ""

    @property
    def cells(self) -> dict[str, str]:
        """Both correlations, for a table."""
        pairs = {
            "gradient": (self.over_all, self.reason),
            "gradient, within stages": (self.within_stages, self.reason or _NONE_WITHIN),
        }
        return {
            title: f"none: {reason}" if found is None else f"{found.value:+.2f} (n = {self.blocks})"
            for title, (found, reason) in pairs.items()
        }


def of_its_kind(record: RunRecord, dense: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the dense runs of the backbone of `record` on its images."""
    spec = record.spec
    return [o for o in dense if o.spec.backbone == spec.backbone and o.spec.dataset == spec.dataset]


def dense_gradients(record: RunRecord, dense: Sequence[RunRecord]) -> DenseGradients:
    """Return the gradients of the run most like `record` among `dense`, those of its backbone and
    images: the same recipe, then the same epochs, then the same seed; of those that have gradients
    on record."""
    spec = record.spec
    if not dense:
        return DenseGradients(reason=f"no dense {spec.backbone.name} was run on these images")
    known = [other for other in dense if other.points[0].block_gradients]
    if not known:
        first = dense[0]
        why = why_no_gradients(first.points[0], run=first.run)
        return DenseGradients(reason=f"those of the dense {first.run} are not on record: {why}")

    def likeness(other: RunRecord) -> tuple[bool, bool, bool]:
        own, its = spec.budget, other.spec.budget
        return its.recipe == own.recipe, its.epochs == own.epochs, other.spec.seed == spec.seed

    return DenseGradients(max(known, key=likeness).points[0].block_gradients)


def why_no_gradients(point: PointRecord, *, run: str) -> str:
    """Return what is to be said where an operating point has no gradients."""
    older = f"the record is older than this number, and 'bench evaluate {run}' adds it"
    return point.block_gradients_reason or older


def rates_and_gradients(
    point: PointRecord, dense: DenseGradients, *, backbone: str
) -> RatesAndGradients:
    """Return how rates and the dense network's gradients go together over the gated blocks."""
    of_block = dense.of_block
    if of_block is None:
        return RatesAndGradients(reason=dense.reason)
    names = [b for b in point.gated_blocks if b in of_block and b in point.block_rates]
    if len(names) < _FEWEST:
        return RatesAndGradients(len(names), reason=f"there are only {len(names)}")
    rates = np.array([point.block_rates[name] for name in names])
    gradients = np.array([of_block[name] for name in names])
    stages = _stages(names, backbone=backbone)
    over_all = rank_correlation_within(rates, gradients, np.zeros(len(names), dtype=int))
    within = None if stages is None else rank_correlation_within(rates, gradients, stages)
    reason = "" if over_all is not None else "all have one rate"
    return RatesAndGradients(len(names), over_all, within, reason)


def _stages(names: Sequence[str], *, backbone: str) -> npt.NDArray[Any] | None:
    """Return the stage of each block: those behind which states have one shape; None where there
    is only one, or the backbone is not known here."""
    from bench.networks.trunk import Backbone

    try:
        own = Backbone(backbone, _CLASSES, (3, _SIDE, _SIDE))
        side = own.family.side(own.member)
        stages = replace(own, image_shape=(3, side, side)).stages
    except BenchError:
        return None
    of = {f"block{b}": number for number, stage in enumerate(stages) for b in stage.blocks}
    if len(stages) < 2 or not of.keys() >= set(names):
        return None
    return np.array([of[name] for name in names])
