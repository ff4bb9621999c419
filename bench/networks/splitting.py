"""A batch of which some images go one way and others another: decisions in eager PyTorch.

Owns no decision and no block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.errors import Unsupported

Side = Callable[..., tuple[Tensor, ...]]


def split(condition_n: Tensor, then: Side, otherwise: Side, *given: Tensor) -> tuple[Tensor, ...]:
    """Run each side on its images: a `Branch` for whole batches.

    Raises:
        Unsupported: the condition is one for each position.
    """
    whole_images_only(condition_n)
    chosen = condition_n.tolist()
    if all(chosen):
        return then(*given)
    if not any(chosen):
        return otherwise(*given)
    rows = [choice.nonzero().flatten() for choice in (condition_n, ~condition_n)]
    found = [
        side(*(x[own.to(x.device)] for x in given))
        for side, own in zip((then, otherwise), rows, strict=True)
    ]
    order_n = torch.cat(rows).argsort()
    return tuple(torch.cat(pair)[order_n.to(pair[0].device)] for pair in zip(*found, strict=True))


def whole_images_only(condition: Tensor) -> None:
    """Do nothing where a condition of a branch is one for each image.

    Raises:
        Unsupported: it is one for each position of a map.
    """
    if condition.ndim > 1:
        raise Unsupported("It runs blocks whole; this network runs them at some positions.")
