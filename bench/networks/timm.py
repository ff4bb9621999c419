"""timm's ViTs, DeiTs and EfficientNets as trunks; weights are random, nothing is downloaded.

The attention and the MLP of a transformer layer are two blocks. Owns how these networks are split
into blocks, not what they are: timm builds them.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from bench.errors import ConfigError, UnknownNameError
from bench.networks.residuals import AttentionResidual, TokenResidual
from bench.networks.torchvision import trunk_of_layers
from bench.networks.trunk import Backbone, Block, Family, Trunk, split_network

_LISTED = (
    *("vit_tiny_patch4_32", "vit_tiny_patch16_224", "vit_small_patch16_224"),
    *("deit_tiny_patch16_224", "deit_small_patch16_224", "efficientnet_lite0"),
)
_PATCHES = re.compile(r"(.+_patch)(\d+)_\d+$")
_DEPTH = 12  # of the transformers whose ladder is declared: all but the large ones


class Timm(Family):
    """What timm can create and this module can split; behind an @ stands the number of layers.

    Where timm has no ViT with such patches, the one of the same size with others is built with
    them: vit_tiny_patch4_32 is vit_tiny_patch16_224 with patches of 4 pixels.
    """

    name = "timm"
    summary = "timm (skipbench[backbones]): any vit_*, deit_*, efficientnet_*"

    def build(self, backbone: Backbone) -> Trunk:
        net = self.model(backbone)
        apart = _APART.get(type(net).__name__)
        if apart is None:
            raise ConfigError(
                f"{backbone.name} is a {type(net).__name__}; supported are {', '.join(_APART)}.",
                hint="docs/adding-a-backbone.md says how to bring any other network.",
            )
        return split_network(net, apart)

    def model(self, backbone: Backbone) -> nn.Module:
        timm = _timm()
        name, _, layers = backbone.member.partition("@")
        settings: dict[str, Any] = {"depth": int(layers)} if layers else {}
        if _is_transformer(name):
            name, patch = _known(name, timm)
            settings |= {"img_size": backbone.image_shape[1:]} | patch
        net: nn.Module = timm.create_model(
            name,
            pretrained=False,
            num_classes=backbone.num_classes,
            in_chans=backbone.image_shape[0],
            **settings,
        )
        return net

    def members(self) -> tuple[str, ...]:
        return _LISTED

    def side(self, member: str) -> int:
        found = re.search(r"_(\d+)(@|$)", member)
        return int(found[1]) if found else super().side(member)

    def check(self, backbone: Backbone) -> None:
        super().check(backbone)
        timm = _timm()
        name, _, layers = backbone.member.partition("@")
        if _known(name, timm)[0] not in timm.list_models() or not re.fullmatch(r"\d*", layers):
            known = [*_LISTED, *timm.list_models(["vit_*", "deit_*", "efficientnet_*"])]
            raise UnknownNameError(
                "backbone", backbone.name, [f"{self.name}/{one}" for one in dict.fromkeys(known)]
            )

    def ladder(self, member: str) -> Mapping[str, float]:
        name, _, layers = member.partition("@")
        if not _is_transformer(name) or "_large" in name or "_huge" in name:
            return {}
        own = int(layers or _DEPTH)
        return {f"{name}@{n}": n / own for n in range(1, own)}

    def twin(self, member: str) -> str:
        # TensorFlow pads more behind than before; the tensors are the same.
        return f"tf_{member}" if f"tf_{member}" in _timm().list_models() else ""


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise ConfigError(
            "Backbones of timm need the package timm.",
            hint="pip install 'skipbench[backbones]'",
        ) from None
    return timm


def _is_transformer(name: str) -> bool:
    return name.startswith(("vit_", "deit"))


def _known(name: str, timm: Any) -> tuple[str, dict[str, int]]:
    """Return timm's own name, and the patch size where it is not what that name says."""
    found = _PATCHES.match(name)
    if found is None or name in timm.list_models():
        return name, {}
    return f"{found[1]}16_224", {"patch_size": int(found[2])}


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


_APART: Mapping[str, Callable[[Any], Trunk]] = {
    "VisionTransformer": vit_trunk,
    "VisionTransformerDistilled": vit_trunk,
    "EfficientNet": efficientnet_trunk,
}
