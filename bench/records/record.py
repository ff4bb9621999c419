"""The schema of a run's record: one JSON document, the truth about one run.

Arrays (per-image correctness, executed units, raw latencies) lie beside it in .npz files that the
record names. Owns no disk access.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from bench.config import Frozen, RunSpec
from bench.recipes import OptimizerSpec

SCHEMA_VERSION = 2
Status = Literal["finished", "failed", "stopped", "not applicable"]
Role = Literal["dense", "dynamic", "control"]
SpeedVerdict = Literal["faster", "slower", "indistinguishable", "uncertain", "baseline"]

# What a number may be: readers of a record compute with it and draw it.
_ROUNDING = 1e-6
Share = Annotated[float, Field(ge=-_ROUNDING, le=1 + _ROUNDING)]
Amount = Annotated[float, Field(ge=0, le=1e18)]
Count = Annotated[int, Field(ge=0, le=10**18)]
Signed = Annotated[float, Field(ge=-1 - _ROUNDING, le=1 + _ROUNDING)]
Block = Annotated[str, Field(pattern=r"^block[0-9]{1,4}$")]
Number = Annotated[int, Field(ge=1, le=10**9)]


class EpochRow(Frozen):
    """One epoch of training. `values` holds the mean of every loss part, `accuracy_train`, and
    `accuracy_held_out` and `nflops_held_out` where images are held out."""

    phase: str
    epoch: int
    lr: float
    images_per_s: float
    wall_s: float
    values: dict[str, float]


class PhaseCost(Frozen):
    """What one phase spent, and how it was trained.

    `step_macs_per_image` are the MACs of one step, forward and backward, per training image.
    Optimizer and batch size are those it used; those of the spec are what was asked for, and a
    paper's recipe has its own.
    """

    name: str
    epochs: Count
    step_macs_per_image: Amount
    wall_s: float
    optimizer: OptimizerSpec
    batch_size: Count


class TrainingRecord(Frozen):
    """Training cost of a run.

    `dense_epochs` is that of all phases in epochs of the dense backbone: MACs of all steps over 3
    times the forward MACs of the dense network on all training images.
    `pretraining_dense_epochs` is what the run started from had cost before, None where unknown:
    `pretraining_reason` says why, nothing for a user's weights file. `published_epochs` is how long
    the paper trains, where its schedule was asked for. `statistics_images` is on how many training
    images batch-norm statistics were estimated again at the end, 0 where they are those of
    training; these passes are not in the cost.
    """

    train_images: Count
    phases: tuple[PhaseCost, ...]
    epochs: Count
    published_epochs: Count | None = None
    dense_epochs: Amount
    pretraining_epochs: Count | None
    pretraining_dense_epochs: Amount | None
    pretraining_reason: str = ""
    statistics_images: Count = 0


class Environment(Frozen):
    """Where and with what: versions, commit, hardware, load. Free-form values, stable keys."""

    values: dict[str, Any]


class Interval(Frozen):
    """A 95 % interval."""

    low: Amount
    high: Amount


class OtherDense(Frozen):
    """The dense network of another backbone, in the rounds of a latency cell.

    `speedup` is the paired ratio of its time to that of the cell's network.
    """

    dense_ms: Amount
    speedup: Amount
    speedup_interval: Interval


class LatencyCell(Frozen):
    """Latency of one point at one batch size on one machine, by the rules in docs/latency.md.

    All times are milliseconds per image, except `batch_*`. `latency_ms` is the expected time, the
    mean with the slowest hundredth of the calls cut to the others, None where nothing could be
    timed; `reason` says why. `interval_ms` is its 95 % interval. `speedup` is the paired ratio
    dense / this, of the backbone that this network has; `others` has the same for other backbones
    in the same rounds, by the label of the backbone. `runtime` is how this network and the dense
    ones were run. `margin` is by how much the dense network, timed against itself in the same
    rounds, was off 1: what is within it is "indistinguishable", and a wide interval is "uncertain".
    `memory_mib` is the peak of one call, weights included; energy is in older records alone.
    `first_ms` is the very first call on one image in a fresh process, once, prepared and not warm;
    only at batch 1. They come from passes of their own, None (memory with a reason) where
    there were none.
    """

    scenario: Literal["stream", "batch"]
    batch_size: Number
    profile: str
    device: str
    threads: Number
    runtime: str
    n: Count
    latency_ms: Amount | None
    median_ms: Amount | None = None
    mean_ms: Amount | None = None
    iqr_ms: Amount | None = None
    p90_ms: Amount | None = None
    p99_ms: Amount | None = None
    interval_ms: Interval | None = None
    dense_ms: Amount | None = None
    speedup: Amount | None = None
    speedup_interval: Interval | None = None
    verdict: SpeedVerdict | None = None
    margin: Amount | None = None
    others: dict[str, OtherDense] = Field(default_factory=dict)
    converged: bool = False
    contended: bool = False
    reason: str = ""
    raw_file: str = ""
    first_ms: Amount | None = None
    memory_mib: Amount | None = None
    memory_reason: str = ""
    energy_mj_per_image: Amount | None = None
    energy_reason: str = ""
    environment: Environment
    measured_at: str


class Dynamics(Frozen):
    """Whether it matters that decisions differ from image to image.

    `shuffled_accuracy` is the accuracy when every image follows the decisions of another one, at
    exactly the same cost; `shuffled_loss` what that loses. `difficulty_correlation` is Spearman's
    rank correlation, over test images, of the MACs with the loss of a dense network on the image;
    `difficulty_of` names that network's run. None where there is no number, with a reason.
    `grade_correlation` is the same with the difficulty that generated images are known to have.
    """

    shuffled_accuracy: Share | None = None
    shuffled_loss: Signed | None = None
    shuffled_reason: str = ""
    difficulty_correlation: Signed | None = None
    difficulty_of: str = ""
    difficulty_reason: str = ""
    grade_correlation: Signed | None = None


class PointRecord(Frozen):
    """One operating point, measured on the whole test set.

    MACs are means per image over the test set, with the population standard deviation;
    `nflops` = macs / MACs of the dense backbone. `block_rates` is the share of images that ran each
    block. `arrays_file` holds `correct_bits` (bit-packed), `executed_nu`, `macs_n` and `loss_n`.
    `dynamics` is None where all images get the same mask. `accuracy_held_out` and
    `nflops_held_out` are measured on training images that were held out: what settings may be
    chosen by. `block_gradients` is the magnitude of the gradient at each block, as
    bench.measure.gradients defines it; empty with a reason.
    `positions_file` holds, of networks that decide per position, `image_m` and `blocks_mhw`: the
    blocks that ran at each pixel of the cheapest and most expensive test images.
    """

    name: str
    accuracy: Share
    correct: Count
    macs: Amount
    macs_std: Amount
    nflops: Amount
    nflops_backbone: Amount
    params: Count
    params_inference: Count
    block_rates: dict[Block, Share]
    gated_blocks: tuple[Block, ...]
    dead_blocks: tuple[Block, ...]
    distinct_masks: Count
    mean_drop: Signed
    arrays_file: str
    latency: tuple[LatencyCell, ...] = ()
    equivalence: str = ""
    dynamics: Dynamics | None = None
    accuracy_held_out: float | None = None
    nflops_held_out: float | None = None
    block_gradients: dict[Block, Amount] = Field(default_factory=dict)
    block_gradients_reason: str = ""
    positions_file: str = ""


class Conformance(Frozen):
    """Which checks of the conformance suite this very network passed, before and after training.

    `exempt` maps those that were left out to the reason that the method gives: the row is
    unchecked in that. `skipbench` is the version whose checks these are.
    """

    skipbench: str
    passed: tuple[str, ...]
    exempt: dict[str, str] = Field(default_factory=dict)


class RunRecord(Frozen):
    """Everything known about one run.

    `role` and `decision` are the method's tags, None and "" where the run did not finish.
    "stopped" is a trial that a sweep's scheduler ended early: it has a history and no points; "not
    applicable" a control that cannot be made of its source, for the `reason`.
    `files` is the SHA-256 of what lies beside the record by name: arrays of the points and weights,
    not what is added later. `code` is the hash of the method's code as it was then,
    bench.plugin_files; "" of runs that did not finish, as `conformance` is None.
    """

    schema_version: int = SCHEMA_VERSION
    run: str
    spec: RunSpec
    code: str = ""
    status: Status
    reason: str = ""
    variant: str = ""
    role: Role | None = None
    decision: str = ""
    dataset_title: str = ""
    synthetic: bool = False
    test_images: Count = 0
    dense_macs: Count = 0
    unit_macs: dict[str, Count] = Field(default_factory=dict)
    reconstructed: tuple[str, ...] = ()
    training: TrainingRecord | None = None
    history: tuple[EpochRow, ...] = ()
    points: tuple[PointRecord, ...] = ()
    files: dict[str, str] = Field(default_factory=dict)
    conformance: Conformance | None = None
    environment: Environment
    created: str
    wall_s: float = 0.0

    @property
    def held_out_points(self) -> list[tuple[float, float]]:
        """(nFLOPs, accuracy) of each operating point on held-out images, if some were held out."""
        return [
            (point.nflops_held_out, point.accuracy_held_out)
            for point in self.points
            if point.nflops_held_out is not None and point.accuracy_held_out is not None
        ]


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return what is nested in a spec by its dotted name: budget.optimizer.lr and the like."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inner = isinstance(value, Mapping) and value
        found |= leaves(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found
