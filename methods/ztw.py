"""Zero Time Waste: each classifier reads the one before it, and an exit answers for all so far.

Reference: Wolczyk, Wojcik, Balazy, Podolak, Tabor, Smieja, Trzcinski, "Zero Time Waste: Recycling
Predictions in Early Exit Neural Networks", NeurIPS 2021, arXiv 2106.05409, the authors' code, and
their later rewrite.

How it decides. A classifier lies behind every block. It reads its state through the mixed pooling
of Shallow-Deep Networks, and beside it the logits of the classifier before it, through which no
gradient flows. At exit m the classifiers so far answer together, as a weighted geometric mean:

    z_m = b_m + (1/m) sum over j <= m of exp(w_mj) log p_j,        answer softmax(z_m)

with w_m and b_m of its own. An image leaves where the largest probability of that answer reaches a
threshold, one for all exits. Behind the last block the trunk's own classifier joins in; in the
rewrite it answers alone (`last`).

How it learns. The dense network first; it is frozen then, with its statistics. The classifiers
learn from the sum of their cross-entropies, by Adam; after that the ensembles, each from its own,
by Adam. The authors train these for 501 epochs on the outputs of one pass over augmented training
images; here they are trained on images as they come, at ten times the rate, for a fifth of the
epochs; where these are fewer than 12, at a rate that keeps rate times epochs.

How the threshold is chosen. As the authors report it, by shares of the dense network's cost, but on
held-out training images in place of the test set: for each share the highest threshold at which the
mean cost, classifiers and ensembles counted, stays within it.

Their script for CIFAR puts a 3x3 convolution before the pooling (`head`). 27 of those add half of a
ResNet-56 to its cost; the default is the head of the rewrite, without it. Published accuracies are
in tables that we could not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

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
    Unit,
)
from bench.networks.exit_calibration import Ascending, calibrate_to_costs
from bench.networks.exit_heads import CascadingHead, MixedPooling
from bench.networks.exit_places import behind_every_block
from bench.networks.exit_rules import Carried, ProbabilityReaches
from bench.networks.exits import ExitResNet
from bench.phases import ExitsAlone

_EPOCHS, _HEADS_SHARE = 62, 0.8  # 50 epochs of the classifiers, and the ensembles
_HEADS = OptimizerSpec(kind="adam", lr=1e-3, schedule="step", milestones=(0.3,))
_ENSEMBLES = OptimizerSpec(kind="adam", lr=5e-3, weight_decay=0, schedule="cosine")
_HIGHEST_LR = 0.1


class ZtwConfig(MethodConfig):
    """Settings of Zero Time Waste."""

    head: Annotated[Literal["pooled", "convolution"], Choice(("pooled", "convolution"))] = Field(
        "pooled", description="what classifies: pooling and a linear layer, or a convolution before"
    )
    cascade: Literal["logits", "normalised logits"] = Field(
        "logits", description="what a classifier reads of the one before it"
    )
    last: Literal["ensemble", "trunk"] = Field(
        "ensemble", description="who answers at the end: all classifiers, or the trunk's alone"
    )
    budgets: Ascending = Field(
        (0.25, 0.5, 0.75, 1.0), description="mean MACs of the held-out images, of the dense's"
    )


class Classifier(CascadingHead):
    """(A convolution,) mixed pooling, and a linear layer that also reads the logits before it."""

    def __init__(
        self, num_classes: int, shape: tuple[int, ...], exit_index: int, *, config: ZtwConfig
    ) -> None:
        super().__init__()
        self.first: nn.Module = nn.Identity()
        if config.head == "convolution":
            self.first = nn.Sequential(nn.Conv2d(shape[0], shape[0], 3, padding=1), nn.ReLU())
        self.pooling = MixedPooling(shape)
        self.num_read = num_classes if exit_index > 0 else 0
        norms = self.num_read > 0 and config.cascade == "normalised logits"
        self.norm = nn.LayerNorm(num_classes) if norms else nn.Identity()
        self.linear = nn.Linear(self.pooling.num_features + self.num_read, num_classes)

    def forward(self, h: Tensor, before_nk: Tensor | None = None) -> Tensor:
        features: Tensor = self.pooling(self.first(h))
        if self.num_read > 0:
            if before_nk is None:
                before_nk = features.new_zeros(len(features), self.num_read)
            features = torch.cat([features, self.norm(before_nk)], dim=1)
        logits: Tensor = self.linear(features)
        return logits


class Ensemble(nn.Module):
    """The weighted geometric mean of m classifiers: log p (N, K, m) -> logits (N, K)."""

    def __init__(self, num_members: int, num_classes: int) -> None:
        super().__init__()
        self.log_weights_m = nn.Parameter(0.01 * torch.randn(num_members))
        self.bias_k = nn.Parameter(torch.zeros(num_classes))

    def forward(self, log_p_nkm: Tensor) -> Tensor:
        weights_m = self.log_weights_m.exp() / len(self.log_weights_m)
        return F.linear(log_p_nkm, weights_m[None]).flatten(1) + self.bias_k


class Ensembles(ProbabilityReaches):
    """At each exit the classifiers so far answer together; sure answers leave."""

    def __init__(self, num_points: int, num_exits: int, num_ensembles: int, classes: int) -> None:
        super().__init__(num_points, num_exits)
        self.num_classes = classes
        self.ensembles = nn.ModuleList(Ensemble(m + 1, classes) for m in range(num_ensembles))

    def answer(
        self, logits_nk: Tensor, carried: Carried, *, exit_index: int
    ) -> tuple[Tensor, Carried]:
        if exit_index >= len(self.ensembles):
            return logits_nk, ()
        log_p_nkm = torch.cat([*carried, logits_nk.log_softmax(dim=1)[:, :, None]], dim=2)
        return self.ensembles[exit_index](log_p_nkm), (log_p_nkm,)

    def units(self, exit_index: int) -> Sequence[Unit]:
        if exit_index >= len(self.ensembles):
            return ()
        where = f"exit{exit_index + 1}" if exit_index < self.num_exits else "head"
        shape = (self.num_classes, exit_index + 1)
        return [Unit(f"{where}.rule", self.ensembles[exit_index], shape, True, "policy")]


class EnsemblesAlone(Phase):
    """The weights of the ensembles; classifiers and trunk are frozen."""

    def groups(self, net: DynamicNet) -> Sequence[ParameterGroup]:
        assert isinstance(net, ExitResNet)
        return [ParameterGroup(tuple(net.rule.parameters()))]

    def set_modes(self, net: DynamicNet) -> None:
        net.eval()

    def loss(self, net: DynamicNet, batch: Batch, progress: float) -> LossTerms:
        assert isinstance(net, ExitResNet) and isinstance(net.rule, Ensembles)
        with torch.no_grad():
            logits_wnk = net.exit_logits(batch.x_nchw)
        answers = net.answers(logits_wnk)[: len(net.rule.ensembles)]
        losses = [F.cross_entropy(answer_nk, batch.labels_n) for answer_nk in answers]
        parts = {f"loss_ensemble{m + 1}": loss for m, loss in enumerate(losses)}
        return LossTerms(torch.stack(losses).sum(), parts, answers[-1])


class Ztw(Method[ZtwConfig]):
    """Cascading exits behind every block of a frozen network, and geometric ensembles of them."""

    name = "ztw"
    reference = Reference(
        title="Zero Time Waste: Recycling Predictions in Early Exit Neural Networks",
        authors="Wolczyk, Wojcik, Balazy, Podolak, Tabor, Smieja, Trzcinski",
        year=2021,
        url="https://arxiv.org/abs/2106.05409",
    )
    tags = Tags(
        decision="exit",
        starts_from_dense=True,
        extra_share=0.1,
        calibrates=True,
        reconstructed=("budgets",),
    )

    def variant(self, config: ZtwConfig) -> str:
        return config.head

    def published_epochs(self, config: ZtwConfig) -> int:
        return _EPOCHS

    def build(self, backbone: Backbone, config: ZtwConfig) -> DynamicNet:
        if config.head == "convolution":
            backbone.require_maps(f"A {config.head} head")
        starts = behind_every_block(backbone)
        count = len(starts) + (config.last == "ensemble")
        rule = Ensembles(len(config.budgets), len(starts), count, backbone.num_classes)
        return ExitResNet(backbone, rule, starts=starts, head=partial(Classifier, config=config))

    def phases(self, config: ZtwConfig, budget: Budget) -> Sequence[Phase]:
        first, size = budget.share(_HEADS_SHARE), budget.batch_size
        rest = budget.epochs - first
        # Weights that move too little stay near those of a plain mean: far worse than the last.
        shortened = max(1.0, (_EPOCHS - round(_EPOCHS * _HEADS_SHARE)) / max(rest, 1))
        lr = min(shortened * _ENSEMBLES.lr, _HIGHEST_LR)
        ensembles = _ENSEMBLES.model_copy(update={"lr": lr})
        return [
            ExitsAlone("classifiers", epochs=first, batch_size=size, optimizer=_HEADS),
            EnsemblesAlone("ensembles", epochs=rest, batch_size=size, optimizer=ensembles),
        ]

    def calibrate(self, net: DynamicNet, config: ZtwConfig, held_out: Iterable[Batch]) -> None:
        assert isinstance(net, ExitResNet)
        calibrate_to_costs(net, (batch.x_nchw for batch in held_out), config.budgets)

    def operating_points(self, net: DynamicNet, config: ZtwConfig) -> Sequence[Point]:
        assert isinstance(net, ExitResNet)
        return [Point(*view) for view in net.views([f"budget={b:g}" for b in config.budgets])]
