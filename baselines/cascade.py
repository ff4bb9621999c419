"""Cascade: two static networks; where the small one is sure, the large one does not run.

The strongest simple dynamic baseline: nothing is learned but two ordinary networks and a threshold.
After Wang et al., "IDK Cascades", UAI 2018, arXiv 1706.00885 (the large network's answer counts),
and Wang et al., "Wisdom of Committees", ICLR 2022, arXiv 2012.01988 (the answers are averaged).

How it decides. The small network classifies every image. Where its confidence, by default the
largest probability, reaches a threshold, its answer stands; all other images run the large network
as well, and pay for both: cost = c1 + [deferred] c2.

How it learns. Each network from its own cross-entropy; no weight and no gradient is shared, and
both get every epoch of the budget, so an epoch costs (c1 + c2) / c2 dense epochs. Thresholds are
quantiles of the confidence on held-out images, which neither network was trained on: one operating
point for each share of the images that is deferred.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor

from bench.method import (
    Backbone,
    Batch,
    Budget,
    Choice,
    DynamicNet,
    LossTerms,
    Method,
    MethodConfig,
    NotApplicable,
    Output,
    Phase,
    Point,
    Reference,
    Tags,
    Unit,
)
from bench.networks.exit_calibration import ascending, cuts_for_shares
from bench.networks.exit_rules import EntropyBelow, ProbabilityReaches, ThresholdRule
from bench.networks.gated import trunk_units
from bench.networks.splitting import split
from bench.networks.unit import Branch

_SMALL_SHARE = 0.3  # of the blocks of the large network
_EPOCHS = 164  # He et al. for each of the two


class CascadeConfig(MethodConfig):
    """Settings of the cascade."""

    small: str = Field("", description="the small backbone; about 0.3 of the blocks if empty")
    combine: Annotated[Literal["last", "mean"], Choice(("last", "mean"))] = Field(
        "last", description="answer of deferred images: the large network's, or the mean of both"
    )
    confidence: Annotated[Literal["probability", "entropy"], Choice(("probability", "entropy"))] = (
        Field("probability", description="largest probability, or minus the entropy")
    )
    deferred: Annotated[
        tuple[Annotated[float, Field(ge=0, le=1)], ...], AfterValidator(ascending)
    ] = Field((0.1, 0.2, 0.35, 0.5, 0.7), description="shares of the held-out images to defer")


class CascadeNet(DynamicNet):
    """The small network, a rule, and the large one as `trunk`; set to one operating point."""

    def __init__(self, backbone: Backbone, config: CascadeConfig) -> None:
        super().__init__()
        self.backbone, self.combine = backbone, config.combine
        small = config.small or smaller_than(backbone)
        self.small = replace(backbone, name=small, weights=None).build()
        self.trunk = backbone.build()
        kind = ProbabilityReaches if config.confidence == "probability" else EntropyBelow
        self.rule: ThresholdRule = kind(len(config.deferred), 1)
        self.point = len(config.deferred) // 2

    def units(self) -> Sequence[Unit]:
        """The small network as one unit, then those of the large one; deferring costs nothing."""
        small = Unit("small", self.small, self.backbone.image_shape, True, "policy")
        large = trunk_units(self.trunk, self.backbone)
        return [small, *(unit._replace(always_on=False) for unit in large)]

    def forward(self, x_nchw: Tensor) -> Output:
        return self._decided(x_nchw, self._stays(self.small(x_nchw)))

    def forward_permuted(self, x_nchw: Tensor, order_n: Tensor) -> Output:
        return self._decided(x_nchw, self._stays(self.small(x_nchw))[order_n])

    def execute(self, x_nchw: Tensor) -> Output:
        return Output(*self.run(x_nchw, split), {})

    def run(self, x_nchw: Tensor, branch: Branch) -> tuple[Tensor, Tensor]:
        logits_nk: Tensor = self.small(x_nchw)
        stays_n = self._stays(logits_nk)

        def defer(small_nk: Tensor, x_nchw: Tensor) -> tuple[Tensor]:
            return (self._combined(small_nk, self.trunk(x_nchw)),)

        (logits_nk,) = branch(stays_n, lambda small_nk, _: (small_nk,), defer, logits_nk, x_nchw)
        return logits_nk, self._trace(stays_n)

    def views(self, names: Sequence[str]) -> list[Point]:
        """Return all operating points, the middle one, the default, first; weights are shared."""
        order = sorted(range(len(names)), key=lambda point: point != len(names) // 2)
        points: list[Point] = []
        for point in order:
            view = copy.copy(self)
            view.point = point
            points.append(Point(names[point], view))
        return points

    def _decided(self, x_nchw: Tensor, stays_n: Tensor) -> Output:
        small_nk, large_nk = self.small(x_nchw), self.trunk(x_nchw)
        logits_nk = torch.where(stays_n[:, None], small_nk, self._combined(small_nk, large_nk))
        return Output(logits_nk, self._trace(stays_n), {})

    def _stays(self, small_nk: Tensor) -> Tensor:
        return self.rule.leaves(small_nk.detach(), (), exit_index=0, point=self.point)

    def _combined(self, small_nk: Tensor, large_nk: Tensor) -> Tensor:
        if self.combine == "last":
            return large_nk
        return (small_nk.softmax(dim=1) + large_nk.softmax(dim=1)).div(2).log()

    def _trace(self, stays_n: Tensor) -> Tensor:
        deferred_n1 = (~stays_n).float()[:, None]
        columns = len(trunk_units(self.trunk, self.backbone))
        return torch.cat([torch.ones_like(deferred_n1), deferred_n1.expand(-1, columns)], dim=1)


def smaller_than(backbone: Backbone) -> str:
    """Return the backbone of the same ladder with about 0.3 of the blocks.

    Raises:
        NotApplicable: there is no smaller one.
    """
    small = backbone.smaller(_SMALL_SHARE)
    if small is None:
        raise NotApplicable(
            f"{backbone.name} has no smaller backbone of its kind for a cascade: --set "
            "cascade.small=NAME, or a ladder (docs/adding-a-backbone.md)"
        )
    return small


class BothNetworks(Phase):
    """Two trainings on the same batches: each network from its own cross-entropy."""

    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        assert isinstance(net, CascadeNet)
        small_nk, large_nk = net.small(batch.x_nchw), net.trunk(batch.x_nchw)
        small, large = (F.cross_entropy(z_nk, batch.labels_n) for z_nk in (small_nk, large_nk))
        return LossTerms(small + large, {"loss": large, "loss_small": small}, large_nk)


class Cascade(Method[CascadeConfig]):
    """A small static network, and a large one for the images it is not sure of."""

    name = "cascade"
    reference = Reference(
        title="IDK Cascades: Fast Deep Learning by Learning not to Overthink",
        authors="Wang, Luo, Crankshaw, Tumanov, Yu, Gonzalez",
        year=2018,
        url="https://arxiv.org/abs/1706.00885",
    )
    tags = Tags(
        decision="exit",
        role="control",
        calibrates=True,
        reconstructed=("small", "deferred"),
        exempt={"all_on": "two networks: with everything on it is no plain network"},
    )

    def variant(self, config: CascadeConfig) -> str:
        combine = "" if config.combine == "last" else config.combine
        return " ".join(filter(None, (config.small, combine)))

    def published_epochs(self, config: CascadeConfig) -> int:
        return _EPOCHS

    def build(self, backbone: Backbone, config: CascadeConfig) -> DynamicNet:
        return CascadeNet(backbone, config)

    def phases(self, config: CascadeConfig, budget: Budget) -> Sequence[Phase]:
        return [BothNetworks("both", **budget.schedule())]

    def calibrate(self, net: DynamicNet, config: CascadeConfig, held_out: Iterable[Batch]) -> None:
        assert isinstance(net, CascadeNet)
        with torch.no_grad():
            logits_mk = torch.cat([net.small(batch.x_nchw).float() for batch in held_out])
        confidence_1m = net.rule.confidence(logits_mk)[None]
        cuts = [cuts_for_shares(confidence_1m, (1 - share, share)) for share in config.deferred]
        net.rule.set_cuts(torch.tensor(cuts, dtype=torch.float64).to(net.rule.thresholds_pe))

    def operating_points(self, net: DynamicNet, config: CascadeConfig) -> Sequence[Point]:
        assert isinstance(net, CascadeNet)
        return net.views([f"r={share:g}" for share in config.deferred])
