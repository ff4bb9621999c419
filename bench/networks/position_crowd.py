"""The positions that go through one stage on the path that skips.

States are rows with a border of zeros (padded_rows.py) from the first block of the stage to the
last, so that nothing is padded or laid out anew block by block, and the places of the active
positions are looked up once per block, for its second convolution and for the score behind it. Owns
the state of one stage in one call; the policy is positions.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.networks.halting_policy import Crowd
from bench.networks.padded_rows import Dilation, Grid, Places, convolve_at, grid_of
from bench.networks.pondering import Remainder
from bench.networks.position_scores import LocalScore, PositionScore
from bench.networks.resnet import Block, Residual


def shares_of(
    blocks: Sequence[int], active_nb: Tensor, around_nb: Tensor, *, area: int, scores: nn.ModuleDict
) -> dict[str, Tensor]:
    """Return by unit the shares (N,) of blocks, none the first of its stage, and of their scores.

    `active_nb` counts the active positions of each image in each of the blocks, `around_nb` these
    and their neighbours, of `area` positions.
    """
    active = active_nb / area
    # Behind the first block of a stage both convolutions cost the same at a position.
    both, any_ = (around_nb / area + active) / 2, (active_nb > 0).float()
    shares: dict[str, Tensor] = {}
    for block, *columns in zip(
        blocks, both.unbind(1), active.unbind(1), any_.unbind(1), strict=True
    ):
        names = [f"block{block}", f"score{block}", f"score{block}.global"]
        shares |= zip(names if str(block) in scores else names[:1], columns, strict=False)
    return shares


class Rows:
    """The states (R, C) of one stage and how a block changes them."""

    def __init__(self, grid: Grid, state_nchw: Tensor) -> None:
        self.grid = grid
        self.rows_rc = grid.rows_of(state_nchw)
        self._images: Tensor | None = state_nchw  # the same states, while this layout is at hand
        self._hidden: Tensor | None = None

    def run_whole(self, block: Block) -> None:
        """Run a block everywhere, as the dense network does."""
        self._images = block(self._as_images())
        self.grid.inner(self.rows_rc).copy_(self._images)

    def run_at(self, residual: Residual, active: Places, around: Places) -> None:
        """Add a residual at the active places; `around` are these and their eight neighbours."""
        rows_rc = self.rows_rc
        if self._hidden is None:
            self._hidden = rows_rc.new_zeros(len(rows_rc), residual.conv1.out_channels)
        # Its border stays zero, and within it only what is written here is read here.
        hidden = self._hidden
        for part in around.parts(rows_rc.shape[1]):
            inner = _normalised(convolve_at(rows_rc, residual.conv1, part.near_3m), residual.bn1)
            hidden.index_copy_(0, part.row_m, F.relu_(inner))
        for part in active.parts(hidden.shape[1]):
            outer = _normalised(convolve_at(hidden, residual.conv2, part.near_3m), residual.bn2)
            state = rows_rc.index_select(0, part.row_m)
            rows_rc.index_copy_(0, part.row_m, F.relu_(outer.add_(state)))
        self._images = None

    def _as_images(self) -> Tensor:
        return self.grid.images_of(self.rows_rc) if self._images is None else self._images


class PositionCrowd(Crowd):
    """The positions of a batch; those that have halted keep their state for others to read."""

    def __init__(
        self, state_nchw: Tensor, *, scores: nn.ModuleDict, eps: float, bias: float
    ) -> None:
        count, _, height, width = state_nchw.shape
        self.grid = grid_of(count, height, width, state_nchw.device)
        self.rows = Rows(self.grid, state_nchw)
        self._scores, self._bias = scores, bias
        self._left = Remainder(self.grid.inside_r1, eps=eps)
        self._active = self.grid.everywhere
        self._images: Tensor | slice = slice(None)  # those in which a position is active
        self._z_r1 = torch.zeros_like(self.grid.inside_r1)
        self._total: Tensor | None = None
        self._dilate = Dilation(self.grid)
        self._counts: dict[int, tuple[Tensor, Tensor]] = {}

    def weigh(self, block: int) -> bool:
        weights_r1 = self._left.weigh(self._score(block))
        if self._total is None:
            self._total = self.rows.rows_rc * weights_r1
        else:
            self._total.addcmul_(self.rows.rows_rc, weights_r1)
        self._active = self.grid.places(self._left.active.view(-1))
        return len(self._active.row_m) > 0

    def _score(self, block: int) -> Tensor:
        score, grid, rows_rc = self._scores[str(block)], self.grid, self.rows.rows_rc
        assert isinstance(score, PositionScore) and isinstance(score.local, LocalScore)
        score.local.write_at(self._active, rows_rc, grid, out_r1=self._z_r1)
        whole_m1 = score.whole_of(rows_rc, grid, self._images) + self._bias
        if grid.count == 1:
            return torch.sigmoid(self._z_r1 + whole_m1)
        whole_n1 = whole_m1.new_zeros(grid.count, 1)
        whole_n1[self._images] = whole_m1
        return torch.sigmoid(grid.by_image(self._z_r1) + whole_n1[:, None]).view(-1, 1)

    def advance(self, number: int, block: Block) -> None:
        active_r, grid = self._left.active.view(-1), self.grid
        around_r = self._dilate(active_r)
        active_n, around_n = _counted(active_r, grid), _counted(around_r, grid)
        self._counts[number] = active_n, around_n
        if grid.count > 1:
            self._images = active_n.nonzero().view(-1)
        if len(self._active.row_m) == grid.num_positions:
            self.rows.run_whole(block)
        else:
            assert isinstance(block.residual, Residual)
            self.rows.run_at(block.residual, self._active, grid.places(around_r))

    def ran(self) -> Mapping[str, Tensor]:
        if not self._counts:
            return {}
        # All blocks at once: each operation on one number costs as much as on many.
        counts_ncb = torch.stack([torch.stack(pair) for pair in self._counts.values()], dim=-1)
        area = self.grid.height * self.grid.width
        return shares_of(list(self._counts), *counts_ncb, area=area, scores=self._scores)

    def finish(self) -> Tensor:
        rows_rc = self.rows.rows_rc
        left_r1 = self._left.finish()
        total = rows_rc * left_r1 if self._total is None else self._total.addcmul_(rows_rc, left_r1)
        return self.grid.images_of(total)


def _counted(mask_r: Tensor, grid: Grid) -> Tensor:
    return mask_r.view(grid.count, -1).sum(dim=1)


def _normalised(values_mc: Tensor, norm: nn.Module) -> Tensor:
    if isinstance(norm, nn.BatchNorm2d):
        statistics = norm.running_mean, norm.running_var
        return F.batch_norm(values_mc, *statistics, norm.weight, norm.bias, eps=norm.eps)
    assert isinstance(norm, nn.Identity), "nothing else is known to act on each position alone"
    return values_mc
