"""Networks of known structures as trunks: torchvision's ResNets and MobileNetV2, timm's ViTs, DeiTs
and EfficientNets.

The attention and the MLP of a transformer layer are two blocks. Owns how a network is split into
blocks, not what it is: its library, or a plugin, builds it.
"""

from __future__ import annotations

import copy
import inspect
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from bench.errors import PluginError
from bench.networks.residuals import AttentionResidual, TokenResidual, basic_residual
from bench.networks.trunk import Backbone, Block, Family, Trunk, split_network


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
        known = KNOWN.get((kind.__module__.partition(".")[0], kind.__name__))
        if known is not None:
            return split_network(net, known)
    names = ", ".join(f"{library}'s {name}" for library, name in KNOWN)
    raise PluginError(
        f"How a {type(net).__name__} splits into stem, residual blocks and head is not known.",
        hint=f"Known are {names}; of any other network return a Trunk (docs/adding-a-backbone.md).",
    )


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


class _Part(nn.Module):
    """Some of the modules and weights of a network, and what is computed with them."""

    def __init__(self, net: nn.Module, run: Callable[[Any, Tensor], Tensor], *parts: str) -> None:
        super().__init__()
        part = copy.copy(net)
        part._modules = {k: v for k, v in net._modules.items() if k in parts or v is None}
        part._parameters = {k: v for k, v in net._parameters.items() if k in parts or v is None}
        self.part = part
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.part, x)


def _embed(vit: Any, x: Tensor) -> Tensor:
    tokens: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(x))))
    return tokens


def _classify(vit: Any, h: Tensor) -> Tensor:
    logits: Tensor = vit.forward_head(vit.norm(h))
    return logits


def vit_trunk(net: Any) -> Trunk:
    """Return the trunk of a timm VisionTransformer, distilled or not."""
    tokens = ("cls_token", "reg_token", "dist_token", "pos_embed")
    stem = _Part(net, _embed, "patch_embed", "pos_drop", "patch_drop", "norm_pre", *tokens)
    blocks: list[Block] = []
    for layer in net.blocks:
        attention = _attention(layer.norm1, layer.attn, layer.ls1, layer.drop_path1)
        mlp = TokenResidual(layer.norm2, layer.mlp, layer.ls2, layer.drop_path2)
        blocks += [Block(attention), Block(mlp)]
    head = _Part(net, _classify, "norm", "fc_norm", "head_drop", "head", "head_dist", "attn_pool")
    return Trunk(stem, blocks, head)


def _attention(norm: nn.Module, attention: Any, *after: nn.Module) -> nn.Module:
    """Return the residual of an attention; a kind whose tokens cannot be masked or counted here is
    one in which none can be left out."""
    takes_mask = "attn_mask" in inspect.signature(attention.forward).parameters
    if type(attention).__name__ != "Attention" or not takes_mask:
        return nn.Sequential(norm, attention, *after)
    layers = [layer for layer in attention.modules() if isinstance(layer, nn.Linear)]
    # Queries with keys, then weights with values.
    work = sum(layer.weight.numel() for layer in layers), 2 * attention.proj.in_features
    return AttentionResidual(norm, attention, *after, work=work)


def efficientnet_trunk(net: Any) -> Trunk:
    """Return the trunk of a timm EfficientNet."""
    inner = [layer for stage in net.blocks for layer in stage]
    skips = [bool(getattr(layer, "has_skip", False)) for layer in inner]
    layers = [(nn.Sequential(net.conv_stem, net.bn1), False), *zip(inner, skips, strict=True)]
    head = (net.conv_head, net.bn2, net.global_pool, nn.Dropout(net.drop_rate), net.classifier)
    return trunk_of_layers(layers, _without_shortcut, head=head)


def _without_shortcut(layer: Any) -> nn.Module:
    layer.has_skip = False
    return nn.Sequential(layer, layer.drop_path)


KNOWN: dict[tuple[str, str], Callable[[nn.Module], Trunk]] = {
    ("torchvision", "ResNet"): resnet_trunk,
    ("torchvision", "MobileNetV2"): mobilenet_trunk,
    ("timm", "VisionTransformer"): vit_trunk,
    ("timm", "EfficientNet"): efficientnet_trunk,
}
"""By library and class; a subclass is split as what it is derived from."""
