"""The dense ResNet: every block runs for every image.

Reference: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, sec. 4.2.
Expected on CIFAR-10 (test accuracy, %): ResNet-20 91.25, -32 92.49, -44 92.83, -56 93.03,
-110 93.57; single runs of other trainers reach 91.73 and 92.63 for -20 and -32.

The loss is cross-entropy; nothing is decided. It is the cost axis every curve must beat, the
start of methods that begin from a trained network, and the denominator of nflops and of speed-ups.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.method import (
    Backbone,
    Budget,
    DynamicNet,
    Method,
    MethodConfig,
    OptimizerSpec,
    Phase,
    Reference,
    Tags,
)
from bench.networks.gated import GatedResNet
from bench.phases import CrossEntropy

PUBLISHED = OptimizerSpec(
    lr=0.1,
    weight_decay=1e-4,
    schedule="step",
    milestones=(0.5, 0.75),
    warmup_steps=400,
    warmup_from=0.1,
)


class DenseResNet(Method):
    """All blocks, always."""

    name = "resnet"
    reference = Reference(
        title="Deep Residual Learning for Image Recognition",
        authors="He, Zhang, Ren, Sun",
        year=2016,
        url="https://arxiv.org/abs/1512.03385",
    )
    tags = Tags(decision="static", role="dense")

    def published_epochs(self, config: MethodConfig) -> int:
        return 164

    def build(self, backbone: Backbone, config: MethodConfig) -> DynamicNet:
        return GatedResNet(backbone)

    def phases(self, config: MethodConfig, budget: Budget) -> Sequence[Phase]:
        return [CrossEntropy("supervised", **budget.schedule(published=PUBLISHED))]
