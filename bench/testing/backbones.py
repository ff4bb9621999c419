"""The conformance suite of backbones: what must hold for a trunk, and for gates on any trunk.

The checks of any network are tried on the trunk gated by a synthetic policy. Owns what is asked of
a trunk alone.
"""

from __future__ import annotations

from functools import cached_property, partial

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

from bench.errors import ConfigError, NotApplicable, PluginError
from bench.measure.cost import counted_macs, unit_macs
from bench.measure.modes import evaluating
from bench.networks.execution import skipped
from bench.networks.gated import GatedResNet
from bench.networks.trunk import Backbone, Trunk, blocks_of, pool
from bench.seeding import seeded
from bench.testing import synthetic
from bench.testing.learning import require_gradient
from bench.testing.outcome import Shortfall, Specimen, require
from bench.testing.paths import saved
from bench.testing.suite import OF_NETWORKS, Check
from bench.testing.workbench import with_gradient

_SIDES = (16, 32, 64)
_IMAGES = 24
_ORIGINAL = 1e-5
"""By how much logits may differ from the library's, of the largest or of 1."""


class TrunkBench:
    """A backbone, and the networks that its checks share."""

    def __init__(self, name: str) -> None:
        self.name = name

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone for images of 16 pixels a side, or of the fewest that it takes."""
        named = partial(Backbone, self.name, synthetic.CLASSES)
        own = named((3, 224, 224))
        for side in (*_SIDES, own.family.side(own.member)):
            found = named((3, side, side))
            try:
                found.layout  # noqa: B018  raises where images are too small
            except ConfigError as error:
                refusal = error
            else:
                return found
        raise refusal

    def images(self, count: int, *, seed: int) -> Tensor:
        return synthetic.images(count, seed=seed, shape=self.backbone.image_shape)

    @cached_property
    def trunk(self) -> Trunk:
        """The trunk with weights and statistics at which leaving one out is noticed, eval mode."""
        with seeded(1, "trunk"):
            return perturbed(self.backbone.build())

    @cached_property
    def gated(self) -> Specimen:
        """The trunk, trained for a few steps, with a gate on each block but the last."""
        with seeded(2, "gated"):
            source = synthetic.source_of("dynamic", self.backbone)
        net, x_nchw = source.points[0].net, self.images(_IMAGES, seed=6)
        return Specimen(self.name, net, x_nchw, synthetic.CLASSES, partial(unit_macs, net))


@torch.no_grad()
def perturbed(trunk: Trunk) -> Trunk:
    """Give every weight and statistic of a trunk a value of its own, in place; eval mode."""
    for tensor in (*trunk.buffers(), *trunk.parameters()):
        if tensor.is_floating_point():
            # Matrices by little and to both sides: a deep network would overflow.
            matrix = tensor.ndim > 1 and len(tensor) > 1
            noise = torch.randn_like(tensor) * tensor.std() if matrix else torch.rand_like(tensor)
            tensor += 0.1 * noise
    return trunk.eval()


def builds(bench: TrunkBench) -> None:
    """It can be built, and the smaller backbones of its ladder are smaller."""
    own = bench.backbone
    macs = _meta_macs(own)
    for name, share in own.ladder().items():
        rung = Backbone(name, own.num_classes, own.image_shape)
        require(
            0 < share < 1 and _meta_macs(rung) < macs,
            f"The ladder calls {name} {share:g} of {own.name}; it is not smaller.",
            "Family.ladder maps smaller members to their share of this one.",
        )


def _meta_macs(backbone: Backbone) -> int:
    with torch.device("meta"), torch.no_grad():
        trunk, x_1chw = backbone.without_memory(), torch.zeros(1, *backbone.image_shape)
        return counted_macs(partial(trunk, x_1chw))


def _compare(backbone: Backbone) -> None:
    x_nchw = synthetic.images(5, seed=1, shape=backbone.image_shape)
    with seeded(3, "trunk"):
        theirs = backbone.family.model(backbone)
    if theirs is None:
        raise NotApplicable("it names no network of a library that it is made of (Family.model).")
    with seeded(3, "trunk"):
        trunk = backbone.build()
    if trunk.library_names:
        named = perturbed(trunk).state_dict()
        theirs.load_state_dict({trunk.library_names[own]: named[own] for own in named})
    with torch.no_grad():
        found, expected = trunk.eval()(x_nchw), theirs.eval()(x_nchw)
    apart = float((found - expected).abs().max())
    require(
        apart <= _ORIGINAL * max(1.0, float(expected.abs().max())),
        f"Its logits differ from those of the {type(theirs).__name__} by up to {apart:.1e}.",
        "a layer is left out, or stands in another place.",
    )


def require_original(backbone: Backbone) -> None:
    """Do nothing if a backbone computes what its library's network does, or names none.

    Raises:
        PluginError: it does not.
    """
    try:
        _compare(backbone)
    except NotApplicable:
        return
    except Shortfall as found:
        raise PluginError(
            f"The backbone {backbone.name} is not the network that it is made of. {found.detail}",
            hint=f"Likely cause: {found.cause} All checks: bench backbone check {backbone.name}",
        ) from None


def original(bench: TrunkBench) -> None:
    """It computes what its library's own network computes, within 1e-5."""
    _compare(bench.backbone)


def blocks(bench: TrunkBench) -> None:
    """Run or skipped, a block gives states of one shape; pooled they are (N, C)."""
    net = GatedResNet(bench.backbone)
    layout, trunk = bench.backbone.layout, bench.trunk
    h = trunk.stem(bench.images(3, seed=11))
    with torch.no_grad():
        for b, block in enumerate(blocks_of(trunk)):
            shortcut = block.shortcut(h)
            require(
                not block.settled or torch.equal(block.after(shortcut.clone()), shortcut),
                f"block{b} is settled, but its `after` changes what its shortcut gives.",
                "Block(settled=True) stands where states are never negative.",
            )
            require(
                pool(h).shape == (3, bench.backbone.widths[b]),
                f"The pooled state before block{b} is {tuple(pool(h).shape)}, not (N, C).",
                "states are maps (N, C, H, W) or tokens (N, T, C).",
            )
            alone, h = skipped(block, h, net.merge), block(h)
            require(
                alone.shape == h.shape and tuple(h.shape[1:]) == layout.states[b + 1],
                f"block{b} gives {tuple(h.shape)} where it runs, {tuple(alone.shape)} where it "
                f"is skipped, and {layout.states[b + 1]} was expected behind the batch.",
                "the shape of a state depends on the batch or on the residual.",
            )


def units(bench: TrunkBench) -> None:
    """Two counters agree on its units, which add up to the trunk."""
    with evaluating(bench.trunk):
        whole = counted_macs(partial(bench.trunk, bench.images(1, seed=2)))
    found = sum(unit_macs(GatedResNet(bench.backbone)).values())
    require(
        found == whole,
        f"Its units cost {found:,} MACs, the trunk {whole:,}.",
        "something is computed between stem, blocks and head.",
    )


def gradient(bench: TrunkBench) -> None:
    """Every parameter receives gradient."""
    with seeded(4, "trunk"):
        net: nn.Module = GatedResNet(bench.backbone)
    few = synthetic.batch(8, seed=3, shape=bench.backbone.image_shape)
    F.cross_entropy(net.train()(few.x_nchw).logits, few.labels_n).backward()  # type: ignore[no-untyped-call]
    require_gradient(net, with_gradient(net), where=bench.name)  # type: ignore[arg-type]


def round_trip(bench: TrunkBench) -> None:
    """A newly built trunk with the saved weights computes the same."""
    with seeded(5, "twin"):
        twin = bench.backbone.build().eval()
    twin.load_state_dict(load(saved(bench.trunk)))
    x_nchw = bench.images(3, seed=4)
    with torch.no_grad():
        require(
            torch.equal(twin(x_nchw), bench.trunk(x_nchw)),
            "A newly built trunk with the saved weights computes something else.",
            "something drawn in build() is a plain attribute; make it a buffer.",
        )


OF_TRUNKS = (builds, original, blocks, units, gradient, round_trip)


def backbone_checks(name: str) -> list[Check]:
    """Return the checks of the backbone `name`; they share its networks. Those of any network are
    tried on it gated."""
    bench = TrunkBench(name)
    of_trunk = [Check(name, check, lambda: [bench]) for check in OF_TRUNKS]
    return of_trunk + [Check(name, check, lambda: [bench.gated]) for check in OF_NETWORKS]
