"""The states of a batch while some of its images run a block and others do not.

A list of one view per image: gathering copies what runs once, and nothing is put back. Owns no
decision and no block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.networks.trunk import pool

Rows = Sequence[int]


class States:
    """The state, (C, h, w) or (T, C), of each of the N images of a batch; and its mean (C,).

    Whole batches stay whole until somebody skips.
    """

    def __init__(self, h_nchw: Tensor) -> None:
        self.count = len(h_nchw)
        self._whole: Tensor | None = h_nchw
        self._views: list[Tensor] = []
        self._means_nc: Tensor | None = None

    def all(self) -> Tensor:
        """Return the states of all images, (N, C, h, w); not to be written to."""
        if self._whole is None:
            self._whole = torch.cat(self._views)
            self._views = []
        return self._whole

    def of(self, rows: Rows) -> Tensor:
        """Return the states of some images, (n, C, h, w), in the order given."""
        if len(rows) == self.count:
            return self.all()
        views = self._listed()
        return views[rows[0]] if len(rows) == 1 else torch.cat([views[row] for row in rows])

    def means(self) -> Tensor:
        """Return the mean over positions of each state, (N, C); kept for images that skip."""
        if self._means_nc is None:
            self._means_nc = pool(self.all())
        return self._means_nc

    def put_all(self, h_nchw: Tensor) -> None:
        """Replace the states of all images, in order."""
        self._whole, self._views, self._means_nc = h_nchw, [], None

    def put(self, *parts: tuple[Rows, Tensor]) -> None:
        """Replace the states of some images; in several parts all, where the shape changes."""
        views = self._listed()
        for rows, values in parts:
            for row, view in zip(rows, torch.split(values, 1), strict=True):
                views[row] = view
            if len(parts) == 1 and self._means_nc is not None:
                self._means_nc[list(rows)] = pool(values)
        self._whole = None
        if len(parts) > 1:
            self._means_nc = None

    def _listed(self) -> list[Tensor]:
        if not self._views:
            self._views = list(torch.split(self.all(), 1))
        return self._views
