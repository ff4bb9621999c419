"""BranchyNet: side classifiers, trained together with the trunk; sure images leave early.

Reference: Teerapittayanon, McDanel, Kung, "BranchyNet: Fast Inference via Early Exiting from Deep
Neural Networks", ICPR 2016, arXiv 1709.01686, and the authors' code.

How it decides. Each exit has a classifier. An image leaves at exit n if the entropy of its softmax,
H = -sum p log p (natural logarithm), is below T_n; the last exit is the trunk's own head.

How it learns. All classifiers and the trunk jointly:

    L = sum over exits of w_n CE_n

The text recommends heavier early exits, the code uses 1 everywhere. The authors train the trunk
alone first (recipe `paper`: half of the epochs); other recipes train jointly from the start.

How the thresholds are chosen. The authors sweep them on the test set and pick the knee by eye.
Here they are set on held-out training images by the budgets of MSDNet (Huang et al., ICLR 2018):
the shares of the images that leave at each exit are proportional to p^k, k = 1, 2, 3, and the
thresholds are such that these shares of the held-out images leave there. One p, one operating
point; the larger p, the more images go to the end.

Published on CIFAR-10 with their ResNet-110: dense 80.70 %; 79.17 % at 1.9 times the speed, exits
taken by 41.5, 13.8 and 44.7 % of the images. Any other ResNet-110 has about 93.5 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat

from bench.method import (
    Backbone,
    Batch,
    Budget,
    Choice,
    DynamicNet,
    LossTerms,
    Method,
    MethodConfig,
    OptimizerSpec,
    ParameterGroup,
    Phase,
    Point,
    Reference,
    Tags,
)
from bench.networks.exit_calibration import Ascending, calibrate_to_budgets
from bench.networks.exit_heads import HeadKind
from bench.networks.exit_rules import EntropyBelow
from bench.networks.exits import NUM_EXITS, ExitResNet
from bench.phases import JointExits

_PUBLISHED_EPOCHS = 200  # the trunk, then all together
_PUBLISHED_BATCH = 64
_PUBLISHED = OptimizerSpec(kind="adam", lr=1e-3, momentum=0.99, weight_decay=0, schedule="constant")


class BranchyNetConfig(MethodConfig):
    """Settings of BranchyNet; the weights are those of the authors' code."""

    weights: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = Field(
        (1.0, 1.0, 1.0), description="of the cross-entropies of exit 1, exit 2 and the trunk"
    )
    head: Annotated[HeadKind, Choice(("pooled", "grid"))] = Field(
        "pooled", description="what classifies at an exit"
    )
    budgets: Ascending = Field(
        (0.25, 0.5, 1.0, 2.0, 4.0), description="p: exits are taken in proportion to p^k"
    )


class TrunkAlone(Phase):
    """The dense network, before it gets its exits."""

    def groups(self, net: DynamicNet) -> Sequence[ParameterGroup]:
        assert isinstance(net, ExitResNet)
        return [ParameterGroup(tuple(net.trunk.parameters()))]

    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        assert isinstance(net, ExitResNet)
        logits_nk = net.trunk(batch.x_nchw)
        total = F.cross_entropy(logits_nk, batch.labels_n)
        return LossTerms(total, {"loss_last": total}, logits_nk)


class JointTraining(JointExits):
    """Trunk and exits together, with fixed weights."""

    config: BranchyNetConfig

    def weights(self, net: ExitResNet, progress: float) -> Sequence[float]:
        return self.config.weights


class BranchyNet(Method[BranchyNetConfig]):
    """Exits behind stages 1 and 2, taken when the entropy is low."""

    name = "branchynet"
    version = 2
    reference = Reference(
        title="BranchyNet: Fast Inference via Early Exiting from Deep Neural Networks",
        authors="Teerapittayanon, McDanel, Kung",
        year=2016,
        url="https://arxiv.org/abs/1709.01686",
    )
    tags = Tags(
        decision="exit",
        calibrates=True,
        reconstructed=("head", "budgets"),
    )

    def variant(self, config: BranchyNetConfig) -> str:
        weights = "w=" + ",".join(f"{weight:g}" for weight in config.weights)
        return f"{weights} {config.head}"

    def published_epochs(self, config: BranchyNetConfig) -> int:
        return _PUBLISHED_EPOCHS

    def build(self, backbone: Backbone, config: BranchyNetConfig) -> DynamicNet:
        rule = EntropyBelow(len(config.budgets), NUM_EXITS)
        return ExitResNet(backbone, rule, head=config.head)

    def phases(self, config: BranchyNetConfig, budget: Budget) -> Sequence[Phase]:
        if not budget.published:
            return [JointTraining("joint", config, **budget.schedule())]
        first = budget.share(0.5)
        alone, joint = (
            budget.schedule(epochs, published=_PUBLISHED, published_batch=_PUBLISHED_BATCH)
            for epochs in (first, budget.epochs - first)
        )
        return [TrunkAlone("trunk", **alone), JointTraining("joint", config, **joint)]

    def calibrate(
        self, net: DynamicNet, config: BranchyNetConfig, held_out: Iterable[Batch]
    ) -> None:
        assert isinstance(net, ExitResNet)
        calibrate_to_budgets(net, (batch.x_nchw for batch in held_out), config.budgets)

    def operating_points(self, net: DynamicNet, config: BranchyNetConfig) -> Sequence[Point]:
        assert isinstance(net, ExitResNet)
        return [Point(*view) for view in net.views([f"p={p:g}" for p in config.budgets])]
