"""CDL: linear classifiers on the stages of a trained, frozen network; sure images leave early.

Reference: Panda, Sengupta, Roy, "Conditional Deep Learning for Energy-Efficient and Enhanced
Pattern Recognition", DATE 2016, arXiv 1509.08971. Known here from its abstract and from summaries;
what these do not state is reconstructed.

How it decides. A linear classifier reads the features behind each stage. An image leaves at the
first exit at which its largest class probability reaches the threshold of that exit; what none is
sure of goes to the end of the network.

How it learns. The network is trained first, as usual, and is then left alone: only the linear
classifiers learn, from the cross-entropy, so that training costs little more than forward passes
to the last exit. In the paper a classifier is kept only if it gains more than it costs; here there
are always two, behind stages 1 and 2.

How the thresholds are chosen. In the paper the user sets one. Here they are set on held-out
training images by the budgets of MSDNet (Huang et al., ICLR 2018): the shares of the images that
leave at each exit are proportional to p^k, k = 1, 2, 3. One p, one operating point; the larger
p, the more images go to the end.

Published on MNIST: 98.9 %, the network alone 97.5 %, with 1.91 times fewer operations. Nothing is
published for the ResNets of this project.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from bench.method import (
    Backbone,
    Batch,
    Budget,
    Choice,
    DynamicNet,
    Method,
    MethodConfig,
    Phase,
    Point,
    Reference,
    Tags,
)
from bench.networks.exit_calibration import Ascending, calibrate_to_budgets
from bench.networks.exit_rules import ProbabilityReaches
from bench.networks.exits import NUM_EXITS, ExitResNet
from bench.phases import ExitsAlone

_EPOCHS = 20  # no schedule is known


class CdlConfig(MethodConfig):
    """Settings of CDL; all reconstructed."""

    head: Annotated[Literal["grid", "pooled"], Choice(("grid", "pooled"))] = Field(
        "grid", description="the features of an exit: means over 4x4 fields, or over the map"
    )
    budgets: Ascending = Field(
        (0.25, 0.5, 1.0, 2.0, 4.0), description="p: exits are taken in proportion to p^k"
    )


class Cdl(Method[CdlConfig]):
    """Linear exits on a frozen network, taken when the largest probability is high."""

    name = "cdl"
    reference = Reference(
        title="Conditional Deep Learning for Energy-Efficient and Enhanced Pattern Recognition",
        authors="Panda, Sengupta, Roy",
        year=2016,
        url="https://arxiv.org/abs/1509.08971",
    )
    tags = Tags(
        decision="exit",
        starts_from_dense=True,
        extra_share=0.1,
        calibrates=True,
        reconstructed=("head", "budgets"),
    )

    def variant(self, config: CdlConfig) -> str:
        return config.head

    def published_epochs(self, config: CdlConfig) -> int:
        return _EPOCHS

    def build(self, backbone: Backbone, config: CdlConfig) -> DynamicNet:
        rule = ProbabilityReaches(len(config.budgets), NUM_EXITS)
        return ExitResNet(backbone, rule, head=config.head)

    def phases(self, config: CdlConfig, budget: Budget) -> Sequence[Phase]:
        return [ExitsAlone("classifiers", **budget.schedule())]

    def calibrate(self, net: DynamicNet, config: CdlConfig, held_out: Iterable[Batch]) -> None:
        assert isinstance(net, ExitResNet)
        calibrate_to_budgets(net, (batch.x_nchw for batch in held_out), config.budgets)

    def operating_points(self, net: DynamicNet, config: CdlConfig) -> Sequence[Point]:
        assert isinstance(net, ExitResNet)
        return [Point(*view) for view in net.views([f"p={p:g}" for p in config.budgets])]
