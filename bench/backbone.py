"""What a plugin for a backbone imports: the contract, and networks of known structures as trunks.

Owns which structures are known; the contract is bench.networks.trunk's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from torch import nn

from bench.errors import PluginError
from bench.networks.residuals import AttentionResidual, TokenResidual
from bench.networks.timm import efficientnet_trunk, vit_trunk
from bench.networks.torchvision import for_channels, mobilenet_trunk, resnet_trunk
from bench.networks.trunk import Backbone, Block, Family, Pool, Trunk, pool, split_network

__all__ = [
    "AttentionResidual",
    "Backbone",
    "Block",
    "Family",
    "Pool",
    "TokenResidual",
    "Trunk",
    "Wrapped",
    "pool",
    "trunk_of",
]

_KNOWN: dict[tuple[str, str], Callable[[nn.Module], Trunk]] = {
    ("torchvision", "ResNet"): resnet_trunk,
    ("torchvision", "MobileNetV2"): mobilenet_trunk,
    ("timm", "VisionTransformer"): vit_trunk,
    ("timm", "EfficientNet"): efficientnet_trunk,
}
"""By library and class; a subclass is split as what it is derived from."""


class Wrapped(Family):
    """A family whose networks have a known structure: `model` is all that it has to say.

    A first convolution for another number of channels than the images have is replaced.
    """

    @abstractmethod
    def model(self, backbone: Backbone) -> nn.Module:
        """Return the untrained network."""

    def build(self, backbone: Backbone) -> Trunk:
        return trunk_of(for_channels(self.model(backbone), backbone.image_shape[0]))


def trunk_of(net: nn.Module) -> Trunk:
    """Return the trunk of a network, with its own modules; `net` is not to be used any more.

    Raises:
        PluginError: its structure is not known.
    """
    for kind in type(net).__mro__:
        known = _KNOWN.get((kind.__module__.partition(".")[0], kind.__name__))
        if known is not None:
            return split_network(net, known)
    names = ", ".join(f"{library}'s {name}" for library, name in _KNOWN)
    raise PluginError(
        f"How a {type(net).__name__} splits into stem, residual blocks and head is not known.",
        hint=f"Known are {names}; of any other network return a Trunk (docs/adding-a-backbone.md).",
    )
