"""A small vision transformer for images of 32 pixels: patches of 4, width 64; small_vit/6.

With six layers it has 65 tokens and 22.6 million MACs. Needs skipbench[backbones].

    bench run --plugin docs/examples/small_vit.py --backbone small_vit/6 --methods resnet,a_vit
"""

from __future__ import annotations

from collections.abc import Mapping

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from bench.backbone import Backbone, Wrapped


class SmallViT(Wrapped):
    """Members are called by their number of layers."""

    name = "small_vit"
    summary = "an example: a ViT of patches of 4 pixels, width 64, four heads"

    def model(self, backbone: Backbone) -> nn.Module:
        channels, *sides = backbone.image_shape
        net: nn.Module = VisionTransformer(
            img_size=tuple(sides),
            patch_size=4,
            in_chans=channels,
            num_classes=backbone.num_classes,
            embed_dim=64,
            depth=int(backbone.member or 6),
            num_heads=4,
        )
        return net

    def members(self) -> tuple[str, ...]:
        return ("6", "4", "3", "2")

    def ladder(self, member: str) -> Mapping[str, float]:
        own = int(member or 6)
        return {str(n): n / own for n in range(1, own)}
