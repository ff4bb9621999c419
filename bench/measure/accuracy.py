"""One pass over a test set: which images are right, which units each image ran.

Also the record of an operating point, made from that. Touches no disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.augment import Batch
from bench.measure.cost import macs_per_image
from bench.measure.modes import evaluating
from bench.networks.unit import DynamicNet, Output, Unit, neighbours
from bench.records.record import PointRecord


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What became of each image of a set, in the order of the set; all tensors on the CPU."""

    correct_n: Tensor  # (N,) bool
    executed_nu: Tensor  # (N, U) float32
    loss_n: Tensor  # (N,) float32: cross-entropy

    @property
    def accuracy(self) -> float:
        """The share of images whose most probable class is their label."""
        return self.correct / len(self.correct_n)

    @property
    def correct(self) -> int:
        return int(self.correct_n.sum())


def evaluate_permuted(net: DynamicNet, batches: Iterable[Batch], *, num_images: int) -> Evaluation:
    """Do as `evaluate` with every image following the decisions of its neighbour in the batch.

    The batches should hold images in random order, so that neighbours have nothing in common.

    Raises:
        Unsupported: the network cannot follow another image's decisions.
        ValueError: the batches do not hold each image 0 ... num_images - 1 once.
    """

    def permuted(x_nchw: Tensor) -> Output:
        return net.forward_permuted(x_nchw, neighbours(x_nchw))

    return evaluate(net, batches, num_images=num_images, run=permuted)


def evaluate(
    net: DynamicNet,
    batches: Iterable[Batch],
    *,
    num_images: int,
    run: Callable[[Tensor], Output] | None = None,
) -> Evaluation:
    """Run the masked forward, or `run`, in eval mode over `num_images` images, each exactly once.

    The mode of every part of the network is restored. `index_n` says where an image belongs.

    Raises:
        ValueError: the batches do not hold each image 0 ... num_images - 1 once.
    """
    parts: list[tuple[Tensor, ...]] = []
    with evaluating(net):
        for batch in batches:
            output = (run or net)(batch.x_nchw)
            logits_nk = output.logits.float()
            loss_n = F.cross_entropy(logits_nk, batch.labels_n, reduction="none")
            right_n = logits_nk.argmax(dim=1) == batch.labels_n
            parts.append((batch.index_n, right_n, output.executed.float(), loss_n))
    columns = [torch.cat([part.cpu() for part in column]) for column in zip(*parts, strict=True)]
    given = columns[0] if parts else torch.empty(0, dtype=torch.int64)
    ordered, order = given.sort()
    if num_images < 1 or not torch.equal(ordered, torch.arange(num_images)):
        raise ValueError(
            f"the batches hold {len(given)} images ({len(set(given.tolist()))} distinct);"
            f" expected each of {num_images} images once"
        )
    return Evaluation(*(column[order] for column in columns[1:]))


def point_record(
    name: str,
    evaluation: Evaluation,
    *,
    net: DynamicNet,
    unit_macs: Mapping[str, int],
    dense_macs: int,
    arrays_file: str,
    equivalence: str = "",
) -> PointRecord:
    """Return the record of the point `name`: `net` as evaluated, against a dense cost in MACs."""
    units, executed_nu = net.units(), evaluation.executed_nu
    macs_n = macs_of(evaluation, net, unit_macs)
    without_policy = [0 if u.role == "policy" else unit_macs[u.name] for u in units]
    backbone_n = macs_per_image(executed_nu, without_policy)
    rates = block_rates(units, executed_nu)
    gated = tuple(unit.name for unit in units if unit.role == "block" and unit.gated)
    dead = tuple(block for block, rate in rates.items() if rate == 0)
    return PointRecord(
        name=name,
        accuracy=evaluation.accuracy,
        correct=evaluation.correct,
        macs=macs_n.mean().item(),
        macs_std=macs_n.std(correction=0).item(),
        nflops=macs_n.mean().item() / dense_macs,
        nflops_backbone=backbone_n.mean().item() / dense_macs,
        params=parameters(net),
        params_inference=parameters(net.inference_net(dead_blocks=frozenset(dead))),
        block_rates=rates,
        gated_blocks=gated,
        dead_blocks=dead,
        distinct_masks=len(np.unique(_block_trace(units, executed_nu).numpy(), axis=0)),
        mean_drop=1 - sum(rates[block] for block in gated) / len(gated) if gated else 0.0,
        arrays_file=arrays_file,
        equivalence=equivalence,
    )


def macs_of(evaluation: Evaluation, net: DynamicNet, unit_macs: Mapping[str, int]) -> Tensor:
    """Return the MACs of each image (N,), policy included."""
    return macs_per_image(evaluation.executed_nu, [unit_macs[unit.name] for unit in net.units()])


def point_arrays(
    evaluation: Evaluation, *, net: DynamicNet, unit_macs: Mapping[str, int]
) -> dict[str, npt.NDArray[Any]]:
    """Return what `arrays_file` holds: executed_nu (N, U), macs_n and loss_n (N,); correct_bits,
    eight images to a byte, the first in the highest bit."""
    return {
        "correct_bits": np.packbits(evaluation.correct_n.numpy()),
        "executed_nu": evaluation.executed_nu.numpy(),
        "macs_n": macs_of(evaluation, net, unit_macs).numpy(),
        "loss_n": evaluation.loss_n.numpy(),
    }


def block_rates(units: Sequence[Unit], executed_nu: Tensor) -> dict[str, float]:
    """Return how much of each block ran on average over the images, by the block's name."""
    blocks = [unit.name for unit in units if unit.role == "block"]
    means: list[float] = _block_trace(units, executed_nu).double().mean(dim=0).tolist()
    return dict(zip(blocks, means, strict=True))


def parameters(net: nn.Module) -> int:
    """Return the number of parameters of `net`."""
    return sum(parameter.numel() for parameter in net.parameters())


def _block_trace(units: Sequence[Unit], executed_nu: Tensor) -> Tensor:
    return executed_nu[:, [column for column, unit in enumerate(units) if unit.role == "block"]]
