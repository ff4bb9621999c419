"""A batch of which some images go one way and others another: decisions in eager PyTorch.

What lies apart is joined when it is read, so gathering copies what runs once, and nothing is put
back. Owns no decision and no block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.errors import Unsupported

Side = Callable[..., tuple[Tensor, ...]]


class SplitBatch(Tensor):
    """Images (N, ...) of which each is a view (1, ...); functions of torch read them as one tensor.

    `means` are their means over positions, (1, C) each, where they have been read.
    """

    views: Sequence[Tensor]
    means: Sequence[Tensor] | None
    _joined: Tensor | None

    @staticmethod
    def __new__(cls, views: Sequence[Tensor], means: Sequence[Tensor] | None = None) -> SplitBatch:
        shape = len(views), *views[0].shape[1:]
        dtype, device = views[0].dtype, views[0].device
        new = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)
        assert isinstance(new, SplitBatch)
        new.views, new.means, new._joined = views, means, None
        return new

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func in _OF_THE_SHAPE:
                return func(*args)
            named = {name: joined(value) for name, value in (kwargs or {}).items()}
            return func(*map(joined, args), **named)

    __torch_dispatch__: Any = __torch_function__


_OF_THE_SHAPE = {
    *(Tensor.__len__, Tensor.dim, Tensor.size),
    *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device")),
}


def pool(h: Tensor) -> Tensor:
    """Return the mean over positions, (N, C): of maps (N, C, H, W) or of tokens (N, T, C)."""
    if not isinstance(h, SplitBatch):
        return h.mean(dim=(2, 3)) if h.ndim == 4 else h.flatten(1, -2).mean(dim=1)
    if h.means is None:
        h.means = torch.split(pool(joined(h)), 1)
    return torch.cat(list(h.means))


def joined(x: Any) -> Any:
    """Return what may lie apart as one tensor, also in a list, and all else as it is."""
    if not isinstance(x, SplitBatch):
        return type(x)(map(joined, x)) if type(x) in (list, tuple) else x
    if x._joined is None:
        x._joined = _gathered(x.views, range(len(x.views)))
    return x._joined


def split(condition_n: Tensor, then: Side, otherwise: Side, *given: Tensor) -> tuple[Tensor, ...]:
    """Run each side on its images: a `Branch` for whole batches.

    What goes to `otherwise` is not gathered before it is read: it is the side that computes less.

    Raises:
        Unsupported: the condition is one for each position.
    """
    whole_images_only(condition_n)
    chosen = condition_n.tolist()
    if all(chosen):
        return then(*given)
    if not any(chosen):
        return otherwise(*given)
    rows = [[n for n, yes in enumerate(chosen) if yes is wanted] for wanted in (True, False)]
    first = then(*(_gathered(_views(x), rows[0]) for x in given))  # it computes
    second = otherwise(*(_left_apart(x, rows[1]) for x in given))
    return tuple(_together(rows, pair) for pair in zip(first, second, strict=True))


def whole_images_only(condition: Tensor) -> None:
    """Do nothing where a condition of a branch is one for each image.

    Raises:
        Unsupported: it is one for each position of a map.
    """
    if condition.ndim > 1:
        raise Unsupported("It runs blocks whole; this network runs them at some positions.")


def _views(x: Tensor) -> Sequence[Tensor]:
    return x.views if isinstance(x, SplitBatch) else torch.split(x, 1)


def _means(x: Tensor) -> Sequence[Tensor] | None:
    return x.means if isinstance(x, SplitBatch) else None


def _gathered(views: Sequence[Tensor], rows: Sequence[int]) -> Tensor:
    return views[rows[0]] if len(rows) == 1 else torch.cat([views[n] for n in rows])


def _left_apart(x: Tensor, rows: Sequence[int]) -> SplitBatch:
    views, means = _views(x), _means(x)
    return SplitBatch([views[n] for n in rows], means and [means[n] for n in rows])


def _together(rows: Sequence[Sequence[int]], parts: Sequence[Tensor]) -> Tensor:
    """Put the images of both sides back in their order."""
    count = sum(map(len, rows))
    views: list[Any] = [None] * count
    means: list[Any] = [None] * count
    known = any(_means(part) for part in parts)
    for places, part in zip(rows, parts, strict=True):
        for n, view in zip(places, _views(part), strict=True):
            views[n] = view
        if known:
            for n, mean in zip(places, _means(part) or torch.split(pool(part), 1), strict=True):
                means[n] = mean
    return SplitBatch(views, means if known else None)
