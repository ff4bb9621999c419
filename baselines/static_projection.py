"""Static projection: the blocks that a dynamic method uses most, the same for every image.

The control for input dependence (the question is asked of BlockDrop by its own figures: 10 distinct
policies on 50,000 images of ImageNet). A trained method runs k blocks per image on average; here
the k blocks with the highest execution rate run for everyone, and nothing is decided. The trunk
keeps the method's trained weights and is fine-tuned with cross-entropy for as many epochs as the
method was trained. Blocks that are left out are deleted.

If this network is as accurate at the same cost, deciding image by image has gained nothing. Of
several operating points the first one is projected, or the one that `point` names. How it is
fine-tuned is stated in no publication: learning rate and length are settings. By default source and
fine-tuning together are trained twice as long as the source; for an equal total, train the source
for two thirds of the budget with `epochs_share` 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import Field
from torch import Tensor

from bench.method import (
    Backbone,
    Budget,
    ConfigError,
    DerivedMethod,
    DynamicNet,
    MethodConfig,
    OptimizerSpec,
    Phase,
    Reference,
    Source,
    SourcePoint,
    Tags,
    Unit,
)
from bench.networks.gated import GatedResNet, whole_trunk
from bench.networks.policy import Policy, UpFront
from bench.phases import CrossEntropy


class StaticProjectionConfig(MethodConfig):
    """Settings of the static projection."""

    point: str = Field("", description="operating point of the source; the first one if empty")
    lr: float = Field(0.02, gt=0, description="learning rate of the fine-tuning, cosine schedule")
    epochs_share: float = Field(
        1.0, ge=0, description="epochs of the fine-tuning, as a share of the source's"
    )


class Fixed(Policy):
    """No gate anywhere: what is left of the network runs for every image, at no cost."""

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        gates_nb = x_nchw.new_ones(len(x_nchw), len(self.always_on))
        return UpFront(gates_nb, always_on=self.always_on)

    def units(self) -> Sequence[Unit]:
        return ()


def most_used(block_rates: Mapping[str, float]) -> frozenset[str]:
    """Return the k blocks with the highest rates, k the mean number of blocks per image, rounded.

    Of equal rates the earlier block is kept, so that the choice does not hang on a sort.
    """
    count = round(sum(block_rates.values()))
    order = {name: place for place, name in enumerate(block_rates)}
    ranked = sorted(block_rates, key=lambda name: (-block_rates[name], order[name]))
    return frozenset(ranked[:count])


class StaticProjection(DerivedMethod[StaticProjectionConfig]):
    """A dynamic method's most used blocks, for every image."""

    name = "static_projection"
    reference = Reference(
        title="Control of this harness: the learned policy without its input",
        authors="The skipbench authors",
        year=2026,
        url="https://arxiv.org/abs/1711.08393",
    )
    tags = Tags(
        decision="static",
        role="control",
        reconstructed=("lr", "epochs_share"),
        exempt={"all_on": "deleted blocks cannot be switched on"},
    )

    def variant(self, config: StaticProjectionConfig) -> str:
        return config.point

    def own_epochs(self, source_epochs: int, config: StaticProjectionConfig) -> int:
        return round(source_epochs * config.epochs_share)

    def derive(
        self, source: Source, backbone: Backbone, config: StaticProjectionConfig
    ) -> DynamicNet:
        point = _named(source, config.point)
        trunk = whole_trunk(point.net, backbone, of=source.method)
        weights = {key: value.detach().cpu() for key, value in trunk.state_dict().items()}
        net = GatedResNet(replace(backbone, weights=weights), Fixed([True] * backbone.num_blocks))
        net.remove_blocks(frozenset(point.block_rates) - most_used(point.block_rates))
        return net

    def phases(self, config: StaticProjectionConfig, budget: Budget) -> Sequence[Phase]:
        optimizer = OptimizerSpec(lr=config.lr, schedule="cosine")
        size = budget.batch_size
        return [
            CrossEntropy("fine-tuning", epochs=budget.epochs, batch_size=size, optimizer=optimizer)
        ]


def _named(source: Source, name: str) -> SourcePoint:
    points = {point.name: point for point in source.points}
    if not name:
        return source.points[0]
    if name not in points:
        raise ConfigError(
            f"'{source.method}' has no operating point '{name}'.",
            hint=f"Its points: {', '.join(points)}.",
        )
    return points[name]
