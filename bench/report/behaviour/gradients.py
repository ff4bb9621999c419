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

from bench.analysis.statistics import rank_correlation_within
from bench.errors import BenchError
from bench.records.record import PointRecord, RunRecord

OVER_ALL, WITHIN = "gradient", "gradient, within stages"
"""The titles of the two correlations in tables."""
_FEWEST = 4
_CLASSES, _SIDE = 2, 224  # stages depend on neither


@dataclass(frozen=True, slots=True)
class DenseGradients:
    """The gradient at each block of a dense run, by name; none with the reason."""

    of_block: Mapping[str, float] | None = None
    reason: str = ""


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
) -> dict[str, str]:
    """Return, as cells of a table, Spearman's correlation of rates with the dense network's
    gradients over the gated blocks, and that within the stages of the backbone; or why there is
    none."""
    of_block = dense.of_block or {}
    names = [b for b in point.gated_blocks if b in of_block and b in point.block_rates]
    few = f"there are only {len(names)}" if len(names) < _FEWEST else ""
    if reason := dense.reason or few:
        return dict.fromkeys((OVER_ALL, WITHIN), f"none: {reason}")
    rates, gradients = (np.array([of[n] for n in names]) for of in (point.block_rates, of_block))
    cells = {}
    for title, stages, without in (
        (OVER_ALL, np.zeros(len(names), dtype=int), "all have one rate"),
        (WITHIN, _stages(names, backbone=backbone), "one stage, or one rate within each"),
    ):
        found = None if stages is None else rank_correlation_within(rates, gradients, stages)
        cells[title] = f"none: {without}" if found is None else f"{found:+.2f} (n = {len(names)})"
    return cells


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
