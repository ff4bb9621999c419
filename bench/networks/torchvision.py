"""torchvision's ResNets and MobileNetV2; weights are random.

Owns their names; library_trunks.py splits them into blocks.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from bench.errors import UnknownNameError
from bench.networks.library_trunks import Wrapped, for_channels
from bench.networks.trunk import Backbone

_RESNETS = {
    "resnet10": ("BasicBlock", (1, 1, 1, 1)),
    "resnet18": ("BasicBlock", (2, 2, 2, 2)),
    "resnet34": ("BasicBlock", (3, 4, 6, 3)),
    "resnet50": ("Bottleneck", (3, 4, 6, 3)),
    "resnet101": ("Bottleneck", (3, 4, 23, 3)),
    "resnet152": ("Bottleneck", (3, 8, 36, 3)),
}
# By MACs at 224 px.
_LADDER: Mapping[str, Mapping[str, float]] = {
    "resnet18": {"resnet10": 0.49},
    "resnet34": {"resnet18": 0.50, "resnet10": 0.24},
    "resnet50": {"resnet34": 0.89, "resnet18": 0.44, "resnet10": 0.22},
    "resnet101": {"resnet50": 0.53, "resnet34": 0.47, "resnet18": 0.23, "resnet10": 0.11},
    "resnet152": {"resnet101": 0.68, "resnet50": 0.36, "resnet34": 0.32, "resnet18": 0.16},
    "mobilenet_v2": {
        "mobilenet_v2@0.75": 0.70,
        "mobilenet_v2@0.5": 0.32,
        "mobilenet_v2@0.35": 0.20,
    },
    "mobilenet_v2@0.75": {"mobilenet_v2@0.5": 0.46, "mobilenet_v2@0.35": 0.28},
    "mobilenet_v2@0.5": {"mobilenet_v2@0.35": 0.61},
}


class Torchvision(Wrapped):
    """ResNets and MobileNetV2, width multipliers behind an @; resnet10 is the small rung that
    torchvision has no name for."""

    name = "torchvision"
    summary = "torchvision: ResNets, MobileNetV2"

    def model(self, backbone: Backbone) -> nn.Module:
        from torchvision.models import mobilenet_v2, resnet

        if backbone.member in _RESNETS:
            kind, layers = _RESNETS[backbone.member]
            net = resnet.ResNet(getattr(resnet, kind), layers, num_classes=backbone.num_classes)
        else:
            width = float(backbone.member.partition("@")[2] or 1)
            net = mobilenet_v2(num_classes=backbone.num_classes, width_mult=width)
        return for_channels(net, backbone.image_shape[0])

    def members(self) -> tuple[str, ...]:
        return (*_RESNETS, "mobilenet_v2", *_LADDER["mobilenet_v2"])

    def check(self, backbone: Backbone) -> None:
        super().check(backbone)
        if backbone.member not in self.members():
            known = [f"{self.name}/{member}" for member in self.members()]
            raise UnknownNameError("backbone", backbone.name, known)

    def ladder(self, member: str) -> Mapping[str, float]:
        return _LADDER.get(member, {})
