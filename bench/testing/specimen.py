"""What a check of a network is given: the network, images, and what its units cost.

The conformance suite makes specimens from synthetic images, a run from its own. Owns no check.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from bench.errors import NotExecutable
from bench.measure.modes import evaluating
from bench.networks.unit import DynamicNet, Output

Run = Callable[[Tensor], Output]


@dataclass(frozen=True, slots=True, eq=False)
class Specimen:
    """One network to check on images (N, C, H, W) of `classes` classes.

    `where` names it for messages; `costs` returns the MACs of each unit by name.
    """

    where: str
    net: DynamicNet
    x_nchw: Tensor
    classes: int
    costs: Callable[[], Mapping[str, int]]

    def runs(self) -> dict[str, Run]:
        """Return the ways to run it: forward, and execute where there is a path that skips."""
        return runs_of(self.net, self.x_nchw)

    def in_double(self) -> Specimen:
        """Return a copy in float64, in which rounding turns no decision."""
        net = copy.deepcopy(self.net).double()
        return replace(self, net=net, x_nchw=self.x_nchw.double())


Check = Callable[[Specimen], None]


def runs_of(net: DynamicNet, x_nchw: Tensor) -> dict[str, Run]:
    """Return the ways to run `net`: forward, and execute where there is a path that skips."""
    # Not a call of the network: one that is compiled would be compiled for each size of a batch.
    runs: dict[str, Run] = {"forward": net.forward}
    try:
        with evaluating(net):
            net.execute(x_nchw[:1])
    except NotExecutable:
        return runs
    return {**runs, "execute": net.execute}
