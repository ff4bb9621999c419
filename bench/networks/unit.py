"""The contract of a dynamic network: units, outputs and the two ways to run it.

Owns the types every method, measurement and report share; knows no architecture.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from bench.errors import Unsupported
from bench.networks.splitting import Side

Role = Literal["stem", "block", "shortcut", "head", "policy"]


class RemovedResidual(nn.Module):
    """Stands where the residual of a removed block was: it never runs and costs nothing."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("a block that was removed was asked to run")


class Unit(NamedTuple):
    """The smallest thing that can be skipped, or that always runs and has a cost.

    `input_shape` leaves out the batch dimension. Units of role `policy` are what deciding costs:
    they count in `nflops` and not in `nflops_backbone`.
    """

    name: str
    module: nn.Module
    input_shape: tuple[int, ...]
    always_on: bool
    role: Role

    @property
    def gated(self) -> bool:
        """Whether something decides if it runs; a removed block never runs."""
        return not self.always_on and not isinstance(self.module, RemovedResidual)


@dataclass(frozen=True, slots=True)
class Output:
    """What every forward returns.

    `logits` is (N, K). `executed` is (N, U) in [0, 1], detached, columns in the order of
    `units()`: the share of unit u that image n ran (a fraction for spatial methods). `terms` holds
    what a loss needs, with gradient: gates, probabilities, ponder cost, exit logits.
    """

    logits: Tensor
    executed: Tensor
    terms: Mapping[str, Tensor]


class Branch(Protocol):
    """Runs one side of a decision or the other, by a boolean (N,), one for each image; or by
    booleans (N, 1, h, w), one for each position of the map (N, C, h, w) that both sides give."""

    def __call__(
        self, condition: Tensor, then: Side, otherwise: Side, /, *given: Tensor
    ) -> tuple[Tensor, ...]:
        """Return what `then(*given)` gives for images, or positions, that fulfil the condition, and
        what `otherwise(*given)` gives for the others.

        The first dimension of all of `given`, and of what the sides give, is that of the images:
        a side may be called with some of them. Both give tensors of the same shapes otherwise, read
        nothing else that depends on the images, and write to nothing outside of them.

        Raises:
            Unsupported: single positions are asked for, and it cannot run just these.
        """
        ...


class DynamicNet(nn.Module, ABC):
    """A network that decides per image which of its units run."""

    @abstractmethod
    def units(self) -> Sequence[Unit]:
        """Return all units, in the order of the columns of `Output.executed`."""

    @abstractmethod
    def forward(self, x_nchw: Tensor) -> Output:
        """Run every unit and mask: differentiable, for training and accuracy."""

    @abstractmethod
    def execute(self, x_nchw: Tensor) -> Output:
        """Run only what was decided, in eval mode.

        Raises:
            NotExecutable: the network has no path that really skips; the message says why.
        """

    def run(self, x_nchw: Tensor, branch: Branch) -> tuple[Tensor, Tensor]:
        """Run like `execute`, each decision handed to `branch`; return logits and executed.

        It is by this that runtimes learn what a network does, from one image: nothing may depend on
        the images but through torch's operators and `branch`. A network that decides nothing has it
        already.

        Raises:
            Unsupported: the network does not say its decisions one by one.
        """
        if any(unit.gated for unit in self.units()):
            raise Unsupported(f"{type(self).__name__} does not tell its decisions (run).")
        output = self.execute(x_nchw)
        return output.logits, output.executed

    def forward_all_on(self, x_nchw: Tensor) -> Output:
        """Run masked with every unit on, whatever would be decided: the dense trunk, bit for bit.

        Raises:
            Unsupported: the network has no such state.
        """
        raise Unsupported(f"{type(self).__name__} has no way to run everything.")

    def forward_permuted(self, x_nchw: Tensor, order_n: Tensor) -> Output:
        """Run masked, image n by the decisions that image `order_n[n]` of the batch would take.

        `order_n` (N,) is a permutation. What is lost in accuracy is what deciding by the image is
        worth: the cost of the batch stays exactly the same.

        Raises:
            Unsupported: the network cannot follow another image's decisions.
        """
        raise Unsupported(f"{type(self).__name__} cannot follow another image's decisions.")

    def position_costs(self, x_nchw: Tensor) -> Tensor | None:
        """Return how many blocks run at each pixel of each image (N, H, W), in eval mode.

        The mean over an image is the sum of its blocks' columns in the trace. None: what runs, runs
        everywhere in an image.
        """
        return None

    def inference_net(self, *, dead_blocks: frozenset[str] = frozenset()) -> DynamicNet:
        """Return a copy of what has to be shipped: nothing that only training needs, which is what
        a module called `training_only` holds.

        `dead_blocks` names units that ran on no image of a measured set; a network may drop them.
        """
        net = copy.deepcopy(self)
        if hasattr(net, "training_only"):
            net.training_only = nn.ModuleDict()
        return net


def neighbours(x_nchw: Tensor) -> Tensor:
    """Return for each image of a batch (N,) the one before it; for the first, the last."""
    return torch.arange(len(x_nchw), device=x_nchw.device).roll(1)
