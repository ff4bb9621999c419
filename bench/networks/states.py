"""Where the states of a batch lie while some images run a block and others do not.

A list of one view per image, on a CPU: gathering copies what runs once, and nothing is put back.
One tensor and index operations, elsewhere: a launch per image would cost more than the copies.
Owns no decision and no block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

Rows = Sequence[int]


class Readable(Protocol):
    """What a decision may ask of the states of a batch."""

    def all(self) -> Tensor:
        """Return the states of all images, (N, C, h, w); not to be written to."""
        ...

    def means(self) -> Tensor:
        """Return the mean over positions of each state, (N, C)."""
        ...


class States(ABC):
    """The state (C, h, w) of each of the N images of a batch, and the mean (C,) of each."""

    def __init__(self, h_nchw: Tensor) -> None:
        self.count = len(h_nchw)
        self._means_nc: Tensor | None = None

    @abstractmethod
    def all(self) -> Tensor:
        """Return the states of all images, (N, C, h, w); not to be written to."""

    @abstractmethod
    def of(self, rows: Rows) -> Tensor:
        """Return the states of some images, (n, C, h, w), in the order given."""

    @abstractmethod
    def _put(self, parts: Sequence[tuple[Rows, Tensor]]) -> None: ...

    @abstractmethod
    def _put_all(self, h_nchw: Tensor) -> None: ...

    def means(self) -> Tensor:
        """Return the mean over positions of each state, (N, C); kept for images that skip."""
        if self._means_nc is None:
            self._means_nc = self.all().mean(dim=(2, 3))
        return self._means_nc

    def put_all(self, h_nchw: Tensor) -> None:
        """Replace the states of all images, in order."""
        self._put_all(h_nchw)
        self._means_nc = None

    def put(self, *parts: tuple[Rows, Tensor]) -> None:
        """Replace the states of some images; in several parts all, where the shape changes."""
        self._put(parts)
        if len(parts) > 1:
            self._means_nc = None
        elif self._means_nc is not None:
            for rows, values in parts:
                self._means_nc[list(rows)] = values.mean(dim=(2, 3))


class ListedStates(States):
    """One view per image; whole batches stay whole until somebody skips."""

    def __init__(self, h_nchw: Tensor) -> None:
        super().__init__(h_nchw)
        self._whole: Tensor | None = h_nchw
        self._views: list[Tensor] | None = None

    def all(self) -> Tensor:
        if self._whole is None:
            assert self._views is not None
            self._whole, self._views = torch.cat(self._views), None
        return self._whole

    def of(self, rows: Rows) -> Tensor:
        if len(rows) == self.count:
            return self.all()
        views = self._listed()
        return views[rows[0]] if len(rows) == 1 else torch.cat([views[row] for row in rows])

    def _put_all(self, h_nchw: Tensor) -> None:
        self._whole, self._views = h_nchw, None

    def _put(self, parts: Sequence[tuple[Rows, Tensor]]) -> None:
        views = self._listed()
        for rows, values in parts:
            for row, view in zip(rows, torch.split(values, 1), strict=True):
                views[row] = view
        self._whole = None

    def _listed(self) -> list[Tensor]:
        if self._views is None:
            assert self._whole is not None
            self._views = list(torch.split(self._whole, 1))
        return self._views


class IndexedStates(States):
    """One tensor, read and written by index; `h_nchw` belongs to it from then on."""

    def __init__(self, h_nchw: Tensor) -> None:
        super().__init__(h_nchw)
        self._h_nchw = h_nchw

    def all(self) -> Tensor:
        return self._h_nchw

    def of(self, rows: Rows) -> Tensor:
        return self._h_nchw if len(rows) == self.count else self._h_nchw[self._index(rows)]

    def _put_all(self, h_nchw: Tensor) -> None:
        self._h_nchw = h_nchw

    def _put(self, parts: Sequence[tuple[Rows, Tensor]]) -> None:
        if len(parts) > 1:
            like = parts[0][1]
            self._h_nchw = torch.empty(
                (self.count, *like.shape[1:]),
                dtype=like.dtype,
                device=like.device,
                memory_format=torch.channels_last,
            )
        for rows, values in parts:
            self._h_nchw.index_copy_(0, self._index(rows), values)

    def _index(self, rows: Rows) -> Tensor:
        return torch.tensor(rows, device=self._h_nchw.device)


def states_of(h_nchw: Tensor) -> States:
    """Return the states of a batch in the form that suits its device."""
    return ListedStates(h_nchw) if h_nchw.device.type == "cpu" else IndexedStates(h_nchw)
