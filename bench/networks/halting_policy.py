"""What a halting method brings: a score behind every unit of a stage but the last.

A stage is the run of blocks at one resolution; its blocks, or runs of them, are the units of
adaptive computation time. Owns who is scored and what that costs; images halt here, positions in
positions.py, tokens in tokens.py. The loop is halting.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import NotApplicable
from bench.networks.execution import per_image
from bench.networks.gated import has_cost
from bench.networks.trunk import Backbone, Block, Stage
from bench.networks.unit import Unit

Needed = Sequence[Tensor]
"""Where each layer of a residual runs that reads beyond what it writes; the last is what is active,
in the shape of `ones`."""


class HaltingPolicy(nn.Module, ABC):
    """Scores the state behind a block: h = sigmoid(z + bias), the weight given to that state.

    `bias` is where the scores start. It is not a parameter, so that weight decay, which shrinks
    what a module learns on top of it, does not by itself make everything halt. `behind` are the
    blocks that a score follows, by default all; the last of a stage has none.
    """

    per_position: bool = False
    """Whether positions halt, not whole images, and where they lie in the image is known."""

    def __init__(
        self,
        backbone: Backbone,
        make: Callable[[int], nn.Module],
        *,
        eps: float,
        bias: float,
        behind: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.bias = bias
        self.stages = backbone.stages
        # The last block of a stage needs no score: whatever is left goes to its state.
        scored = [b for stage in self.stages for b in stage.blocks[:-1]]
        if behind is not None:
            scored = [b for b in scored if b in behind]
        self.scores = nn.ModuleDict({str(b): make(backbone.widths[b + 1]) for b in scored})

    def check(self, blocks: Sequence[Block], name: str) -> None:
        """Do nothing if units behind the first of a stage cost nothing but their residual.

        Raises:
            NotApplicable: they do; what has halted would still have to run that.
        """
        for b in (b for stage in self.stages for b in stage.blocks[1:]):
            if has_cost(blocks[b].shortcut) or has_cost(blocks[b].then):
                raise NotApplicable(f"block{b} of {name} is in a stage and not skipped whole.")

    @abstractmethod
    def ones(self, state_nchw: Tensor) -> Tensor:
        """Return a one for everything that can halt where states have this shape."""

    def score(self, block: int, state: Tensor) -> Tensor:
        """Return h in [0, 1] behind `block`, in the shape of `ones`; differentiable."""
        z = self.scores[str(block)](state).float()
        return per_image(torch.sigmoid(z + self.bias), state)

    def needed(self, active: Tensor) -> Needed:
        """Return what of a block runs, for what is active to go on."""
        return (active,)

    @abstractmethod
    def advance(self, block: Block, state_nchw: Tensor, needed: Needed) -> Tensor:
        """Run `block` for every image and mask; differentiable."""

    def score_active(self, block: int, state_nchw: Tensor, active: Tensor) -> Tensor:
        """Return `score` where something is active, in every image; elsewhere any number."""
        return self.score(block, state_nchw)

    def advance_active(self, block: Block, state_nchw: Tensor, needed: Needed) -> Tensor:
        """Run `block` where something is active, in every image, and nowhere else."""
        out: Tensor = block(state_nchw)
        return out

    def advance_branching(self, block: Block, state_nchw: Tensor, needed: Needed) -> Tensor:
        """Run `block` on images of which something is active, by the same operators for each.

        Raises:
            Unsupported: which operators run depends on the image.
        """
        return self.advance(block, state_nchw, needed)

    @abstractmethod
    def shares(self, block: int, needed: Needed) -> Mapping[str, Tensor]:
        """Return by unit which share (N,) of `block` and of its score runs."""

    def coverage(self, needed: Needed) -> Tensor:
        """Return how much of a block runs, in the shape of `ones`: its layers cost the same."""
        return torch.stack([part.float() for part in needed]).mean(dim=0)

    def on_pixels(self, values: Tensor, height: int, width: int) -> Tensor:
        """Return values in the shape of `ones` at the pixels they are for, (N, 1, H, W)."""
        return F.interpolate(values, size=(height, width), mode="nearest")

    def score_units(self, block: int) -> Sequence[tuple[str, nn.Module]]:
        """Return the parts of the score behind `block`, if there is one, by name, each fed with the
        state."""
        return [(f"score{block}", self.scores[str(block)])] if self.is_scored(block) else []

    def is_scored(self, block: int) -> bool:
        """Tell whether there is a score behind `block`: not behind the last of a stage."""
        return str(block) in self.scores

    def units_of(self, stage: Stage) -> list[range]:
        """Return the runs of blocks that end with a score, and the last, which needs none."""
        ends = [b + 1 for b in stage.blocks if self.is_scored(b)] + [stage.blocks.stop]
        return list(map(range, [stage.blocks.start, *ends], ends))

    def units(self) -> Sequence[Unit]:
        """Return what deciding costs, as units of role `policy`."""
        return [
            Unit(name, module, stage.shape, number == 0, "policy")
            for stage in self.stages
            for number, unit in enumerate(self.units_of(stage)[:-1])
            for name, module in self.score_units(unit[-1])
        ]


class ImageHalting(HaltingPolicy):
    """Whole images halt; `make(width)` returns a module from a state (N, C, h, w) to z (N, 1)."""

    def ones(self, state_nchw: Tensor) -> Tensor:
        one_n = torch.ones(state_nchw.shape[0], device=state_nchw.device)
        return per_image(one_n, state_nchw)

    def advance(self, block: Block, state_nchw: Tensor, needed: Needed) -> Tensor:
        # Images that have halted run on as well: whatever becomes of them has weight 0.
        return self.advance_active(block, state_nchw, needed)

    def shares(self, block: int, needed: Needed) -> Mapping[str, Tensor]:
        runs_n = needed[-1].flatten().float()
        scores = (name for name, _ in self.score_units(block))
        return dict.fromkeys((f"block{block}", *scores), runs_n)
