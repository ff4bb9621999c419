"""Shuffled masks: a trained method in which every image follows the decisions of another image.

The control for conditioning. Masks are permuted among the images of a batch, so the cost of the
test set stays exactly the same, and so do the rate of each block and the number of distinct masks;
only the link between an image and its mask is cut. The accuracy that is lost is what deciding by
the image is worth; where none is lost, the method has found a random mixture of networks.

Nothing is trained. An image takes the decisions of the one before it in the batch; the harness
evaluates test images in random order, so the two have nothing in common. There is nothing to time:
the cost is that of the source.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from bench.method import (
    Backbone,
    Budget,
    DerivedMethod,
    DynamicNet,
    MethodConfig,
    NotApplicable,
    NotExecutable,
    Output,
    Phase,
    Point,
    Reference,
    Source,
    Tags,
    Unit,
)
from bench.networks.unit import Branch, neighbours

_BY_CONSTRUCTION = "decisions come from the other images of the batch, by construction"


class ShuffledNet(DynamicNet):
    """The networks of a finished run, each image by the decisions of its neighbour.

    `inner` is the first operating point; the others share its weights and are not registered, so
    that each weight is kept once.
    """

    def __init__(self, inner: DynamicNet, *others: tuple[str, DynamicNet], name: str = "") -> None:
        super().__init__()
        self.inner = inner
        self.name = name
        self.others = others

    def units(self) -> Sequence[Unit]:
        return self.inner.units()

    def forward(self, x_nchw: Tensor) -> Output:
        return self.inner.forward_permuted(x_nchw, neighbours(x_nchw))

    def execute(self, x_nchw: Tensor) -> Output:
        raise NotExecutable("its cost is that of its source, and so is its time")

    def run(self, x_nchw: Tensor, branch: Branch) -> tuple[Tensor, Tensor]:
        output = self.execute(x_nchw)  # which says why not
        return output.logits, output.executed


class ShuffledMasks(DerivedMethod):
    """A method's masks permuted across images."""

    name = "shuffled_masks"
    trains = False
    reference = Reference(
        title="Control of this harness: the learned policy without its link to the image",
        authors="The skipbench authors",
        year=2026,
        url="https://arxiv.org/abs/1711.09485",
    )
    tags = Tags(
        decision="up front",
        role="control",
        exempt={
            "execution": "there is no skipping path: the cost is that of the source",
            "macs": "there is no skipping path: the cost is that of the source",
            "batch_independence": _BY_CONSTRUCTION,
            "permuted": "it is the permutation",
            "all_on": "it follows the decisions of its source",
            "gradient": "nothing is trained",
        },
    )

    def derive(self, source: Source, backbone: Backbone, config: MethodConfig) -> DynamicNet:
        first, *others = source.points
        if type(first.net).forward_permuted is DynamicNet.forward_permuted:
            raise NotApplicable(f"'{source.method}' cannot follow another image's decisions.")
        return ShuffledNet(
            first.net, *((point.name, point.net) for point in others), name=first.name
        )

    def phases(self, config: MethodConfig, budget: Budget) -> Sequence[Phase]:
        return ()

    def operating_points(self, net: DynamicNet, config: MethodConfig) -> Sequence[Point]:
        assert isinstance(net, ShuffledNet)
        rest = (Point(name, ShuffledNet(other)) for name, other in net.others)
        return [Point(net.name, net), *rest]
