"""Networks to try a method on: built, trained for a few steps, perturbed, calibrated. Each once.

Owns how a method is brought into a state worth checking; knows no check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import NotApplicable
from bench.measure.cost import unit_macs
from bench.method import (
    Backbone,
    Batch,
    Budget,
    DerivedMethod,
    DynamicNet,
    Method,
    MethodConfig,
    Phase,
    Point,
    Source,
)
from bench.recipes import RECIPES
from bench.seeding import seeded
from bench.testing import synthetic
from bench.testing.outcome import NotTried, Shortfall, Specimen, require, shortfall_of
from bench.testing.perturbation import Spread, gated_columns, perturb
from bench.training.loop import freeze_all_but
from bench.training.optimizer import build_optimizer
from bench.training.statistics import reestimate

# Two depths and both shortcuts; the larger one first, because a rule may leave nothing to decide
# where each stage has a single block.
_BACKBONES = (("resnet20", "B"), ("resnet8", "A"))
_BATCH = 8
_IMAGES = 24
_PROGRESS = (0.25, 0.75)
_MORE_PROGRESS = (0.1, 0.4, 0.6, 0.9) * 8


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """One network after a few steps: its points, what received gradient, how it decides."""

    backbone: Backbone
    net: DynamicNet
    points: tuple[Point, ...]
    reached: frozenset[str]
    spread: Spread
    source: Source | None

    @cached_property
    def costs(self) -> dict[str, int]:
        """The MACs of each unit by name."""
        return unit_macs(self.net)

    def where(self, point: Point) -> str:
        """Name the network for a message."""
        name = f", operating point '{point.name}'" if point.name else ""
        return f"{self.backbone.name}{name}"


class Workbench:
    """A method with its settings, and the networks its checks share."""

    def __init__(self, method: Method, config: MethodConfig | None, *, backbone: str = "") -> None:
        self.method = method
        self._given = config
        self._names = ((backbone, "A"),) if backbone else _BACKBONES

    @cached_property
    def config(self) -> MethodConfig:
        """The settings: as given, or the defaults."""
        return self.method.Config() if self._given is None else self._given

    def train(self) -> list[TrainedNetwork]:
        """Return the networks.

        Raises:
            Shortfall: one cannot be built or trained.
            NotApplicable: the method says that it is for none of the backbones.
        """
        if isinstance(self._trained, Exception):
            raise self._trained
        return self._trained

    def backbone(self, shape: tuple[int, int, int]) -> Backbone:
        """Return the backbone asked for, or a CIFAR ResNet, on images of this shape."""
        name = "resnet14" if self._names is _BACKBONES else self._names[0][0]
        return Backbone(name, synthetic.CLASSES, shape)

    def networks(self) -> list[TrainedNetwork]:
        """Return the networks, for a check that is not about training.

        Raises:
            NotTried: there are none.
        """
        if isinstance(self._trained, Shortfall):
            raise NotTried("there is no network to try it on, because 'trains' failed.")
        return self.train()

    def specimens(self) -> Iterator[Specimen]:
        """Yield the network of every operating point, with synthetic images."""
        x_nchw = synthetic.images(_IMAGES, seed=6)
        for trained in self.networks():
            costs = partial(getattr, trained, "costs")
            for point in trained.points:
                yield Specimen(trained.where(point), point.net, x_nchw, synthetic.CLASSES, costs)

    def budget(self, epochs: int, config: MethodConfig, *, recipe: str = "quick") -> Budget:
        """Return what `recipe` gives this method on a small data set."""
        published = self.method.published_epochs(config)
        return RECIPES[recipe].budget(train_size=400, published_epochs=published, epochs=epochs)

    def phases(self, config: MethodConfig) -> list[Phase]:
        """Return the phases of a short training; none for a control that is not trained."""
        if isinstance(self.method, DerivedMethod) and not self.method.trains:
            return []
        return list(self.method.phases(config, self.budget(4, config)))

    def build(
        self, backbone: Backbone, config: MethodConfig, *, source: Source | None
    ) -> DynamicNet:
        """Return the network as a run would have it before training, placed as a run would."""
        if isinstance(self.method, DerivedMethod) and source is not None:
            net = self.method.derive(source, backbone, config)
        else:
            net = self.method.build(backbone, config)
        if not isinstance(net, DynamicNet):
            raise Shortfall(
                f"The network is a {type(net).__name__}, not a DynamicNet.",
                "build() must return a GatedResNet or another subclass of DynamicNet.",
            )
        return net.to(memory_format=torch.channels_last)

    def source(self, backbone: Backbone) -> Source | None:
        """Return a synthetic run for a method that is made from one, else None."""
        if not isinstance(self.method, DerivedMethod):
            return None
        return synthetic.source_of(self.method.source_role, backbone)

    def settled(self, net: DynamicNet, config: MethodConfig) -> list[Point]:
        """Choose thresholds if the method does, and return the operating points."""
        net.eval()
        if self.method.tags.calibrates:
            self.method.calibrate(net, config, synthetic.held_out())
        return list(self.method.operating_points(net, config))

    @cached_property
    def _trained(self) -> list[TrainedNetwork] | Shortfall | NotApplicable:
        networks: list[TrainedNetwork] = []
        refusal = NotApplicable("there is no backbone to try it on")
        for backbone in self._names:
            try:
                networks.append(self._network(*backbone))
            except NotApplicable as error:
                refusal = error
            except Exception as error:
                return shortfall_of(error)
        return networks or refusal

    def _network(self, name: str, shortcut: Any) -> TrainedNetwork:
        backbone = Backbone(name, synthetic.CLASSES, synthetic.SHAPE, shortcut)
        with seeded(4, "check", name):
            source = self.source(backbone)
            net = self.build(backbone, self.config, source=source)
            reached: set[str] = set()
            for phase in self.phases(self.config):
                reached |= train_briefly(net, phase)
            if reached:  # after so few steps running statistics are far off, the more the deeper
                reestimate(net, [synthetic.batch(_IMAGES, seed=300)])
            points = self.settled(net, self.config)
            spread = Spread(1.0, 1)
            if gated_columns(net):
                spread = perturb(net, lambda: [p.net for p in self.settled(net, self.config)])
                points = self.settled(net, self.config)
        return TrainedNetwork(backbone, net, tuple(points), frozenset(reached), spread, source)


@torch.enable_grad()
def train_briefly(
    net: DynamicNet, phase: Phase, *, batch_of: Callable[[int], Batch] | None = None
) -> set[str]:
    """Do some steps of the training loop; return the parameters that received gradient.

    Two steps, and more while parameters of the phase are left without: blocks that training drops
    at random need several.
    """
    groups = phase.groups(net)
    freeze_all_but(phase, net)
    names = {name for name, p in net.named_parameters() if p.requires_grad}
    optimizer = build_optimizer(groups, phase.optimizer)
    phase.set_modes(net)
    reached: set[str] = set()
    for step, progress in enumerate((*_PROGRESS, *_MORE_PROGRESS)):
        if step >= len(_PROGRESS) and names <= reached:
            break
        batch = batch_of(step) if batch_of else synthetic.batch(_BATCH, seed=step)
        terms = phase.loss(net, batch, progress)
        require_descendable(terms.total, phase)
        optimizer.zero_grad(set_to_none=True)
        terms.total.backward()  # type: ignore[no-untyped-call]
        reached |= with_gradient(net)
        optimizer.step()
    for parameter in net.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    return reached


def with_gradient(net: nn.Module) -> set[str]:
    """Return the names of the parameters that have received gradient."""
    return {n for n, p in net.named_parameters() if p.grad is not None and bool(p.grad.any())}


def require_descendable(total: Tensor, phase: Phase) -> None:
    """Check that a loss is one finite number that depends on a parameter.

    Raises:
        Shortfall: it is not.
    """
    what = f"The loss of phase '{phase.name}'"
    shape = f"{what} has shape {tuple(total.shape)}, not ()."
    require(total.ndim == 0, shape, "a mean over the batch is missing.")
    require(
        torch.isfinite(total),
        f"{what} is {total.item()} after a few steps.",
        "a logarithm or a division at 0, or a learning rate that is too large.",
    )
    require(
        total.requires_grad,
        f"{what} depends on no parameter that this phase trains.",
        "the network ran under no_grad, or Phase.groups names other parameters.",
    )
