"""One pass over a test set: which images are right, which units each image ran.

Owns no cost and no record; point.py turns an Evaluation into numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.measure.modes import evaluating
from bench.networks.unit import DynamicNet, Output, neighbours


class LabelledImages(Protocol):
    """What `evaluate` reads of a batch."""

    @property
    def x_nchw(self) -> Tensor: ...
    @property
    def labels_n(self) -> Tensor: ...
    @property
    def index_n(self) -> Tensor: ...


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


def evaluate(net: DynamicNet, batches: Iterable[LabelledImages], *, num_images: int) -> Evaluation:
    """Run the masked forward in eval mode over `num_images` images, each exactly once.

    The mode of every part of the network is restored. `index_n` says where an image belongs.

    Raises:
        ValueError: the batches do not hold each image 0 ... num_images - 1 once.
    """
    return _evaluate(net, net, batches, num_images=num_images)


def evaluate_permuted(
    net: DynamicNet, batches: Iterable[LabelledImages], *, num_images: int
) -> Evaluation:
    """Do the same with every image following the decisions of its neighbour in the batch.

    The batches should hold images in random order, so that neighbours have nothing in common.

    Raises:
        Unsupported: the network cannot follow another image's decisions.
        ValueError: the batches do not hold each image 0 ... num_images - 1 once.
    """

    def permuted(x_nchw: Tensor) -> Output:
        return net.forward_permuted(x_nchw, neighbours(x_nchw))

    return _evaluate(net, permuted, batches, num_images=num_images)


def _evaluate(
    net: DynamicNet,
    run: Callable[[Tensor], Output],
    batches: Iterable[LabelledImages],
    *,
    num_images: int,
) -> Evaluation:
    index: list[Tensor] = []
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    with evaluating(net):
        for batch in batches:
            output = run(batch.x_nchw)
            logits_nk = output.logits.float()
            loss_n = F.cross_entropy(logits_nk, batch.labels_n, reduction="none")
            columns.append((logits_nk.argmax(dim=1) == batch.labels_n, output.executed, loss_n))
            index.append(batch.index_n)
    order = _positions(index, num_images=num_images)
    correct, executed, losses = (
        [part.cpu() for part in column] for column in zip(*columns, strict=True)
    )
    return Evaluation(
        torch.cat(correct)[order],
        torch.cat(executed).float()[order],
        torch.cat(losses)[order],
    )


def pack_bits(correct_n: Tensor) -> npt.NDArray[np.uint8]:
    """Return (N,) bools as ceil(N / 8) bytes, the first image in the highest bit."""
    return np.packbits(correct_n.cpu().numpy().astype(bool))


def _positions(index: list[Tensor], *, num_images: int) -> Tensor:
    given = torch.cat(index).cpu() if index else torch.empty(0, dtype=torch.int64)
    ordered, positions = given.sort()
    if num_images < 1 or not torch.equal(ordered, torch.arange(num_images)):
        raise ValueError(
            f"the batches hold {len(given)} images ({len(set(given.tolist()))} distinct);"
            f" expected each of {num_images} images once"
        )
    return positions
