"""torchvision's ResNets and MobileNetV2 as trunks; weights are random.

Owns how these networks are split into blocks, not what they are: torchvision builds them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from bench.errors import UnknownNameError
from bench.networks.residuals import basic_residual
from bench.networks.trunk import Backbone, Block, Family, Trunk, split_network

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


class Torchvision(Family):
    """ResNets and MobileNetV2, width multipliers behind an @; resnet10 is the small rung that
    torchvision has no name for."""

    name = "torchvision"
    summary = "torchvision: ResNets, MobileNetV2"

    def build(self, backbone: Backbone) -> Trunk:
        apart = resnet_trunk if backbone.member in _RESNETS else mobilenet_trunk
        return split_network(self.model(backbone), apart)

    def model(self, backbone: Backbone) -> nn.Module:
        from torchvision.models import mobilenet_v2, resnet

        if backbone.member in _RESNETS:
            kind, layers = _RESNETS[backbone.member]
            net = resnet.ResNet(getattr(resnet, kind), layers, num_classes=backbone.num_classes)
            return for_channels(net, backbone.image_shape[0])
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


def for_channels(net: nn.Module, channels: int) -> nn.Module:
    """Return a network of a library with its first convolution, if it reads another number of
    channels, replaced by an untrained one for `channels`."""
    name, conv = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
    if conv.in_channels == channels:
        return net
    settings = {"stride": conv.stride, "padding": conv.padding, "bias": conv.bias is not None}
    own = nn.Conv2d(channels, conv.out_channels, conv.kernel_size, **settings)  # type: ignore[arg-type]
    nn.init.kaiming_normal_(own.weight, mode="fan_out", nonlinearity="relu")
    parent, _, last = name.rpartition(".")
    net.get_submodule(parent).register_module(last, own)
    return net


def resnet_trunk(net: Any) -> Trunk:
    """Return the trunk of a torchvision ResNet, of basic or bottleneck blocks."""
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    layers = (net.layer1, net.layer2, net.layer3, net.layer4)
    blocks = [_resnet_block(block) for layer in layers for block in layer]
    return Trunk(stem, blocks, nn.Sequential(net.avgpool, nn.Flatten(), net.fc))


def _resnet_block(block: Any) -> Block:
    if hasattr(block, "conv3"):
        first, second = (block.conv1, block.bn1, block.relu), (block.conv2, block.bn2, block.relu)
        residual = nn.Sequential(*first, *second, block.conv3, block.bn3)
    else:
        residual = basic_residual(block.conv1, block.bn1, block.conv2, block.bn2)
    return Block(residual, block.downsample, after=block.relu, settled=block.downsample is None)


def mobilenet_trunk(net: Any) -> Trunk:
    """Return the trunk of a torchvision MobileNetV2."""
    layers = [(layer, getattr(layer, "use_res_connect", False)) for layer in net.features]
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.classifier)
    return trunk_of_layers(layers, lambda layer: layer.conv, head=pooled)


def trunk_of_layers(
    layers: list[tuple[nn.Module, bool]],
    residual_of: Callable[[Any], nn.Module],
    *,
    head: tuple[nn.Module, ...],
) -> Trunk:
    """Return the trunk of layers that follow each other, some (True) with a shortcut past them.

    Those without always run, where they stand; behind the last block they belong to the head.
    """
    first = next(n for n, (_, skips) in enumerate(layers) if skips)
    stem = nn.Sequential(*(layer for layer, _ in layers[:first]))
    blocks: list[Block] = []
    fixed: list[nn.Module] = []
    for layer, skips in layers[first:]:
        if not skips:
            fixed.append(layer)
            continue
        if fixed:
            blocks[-1].then, fixed = nn.Sequential(*fixed), []
        blocks.append(Block(residual_of(layer)))
    return Trunk(stem, blocks, nn.Sequential(*fixed, *head))
