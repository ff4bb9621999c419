"""my_backbone: a small network of residual blocks, to be replaced by yours.

Every block is y = then(after(shortcut(x) + residual(x))); the residual is what methods skip. A
layer without a residual always runs: put it into the stem, the `then` of a block, or the head.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from bench.backbone import Backbone, Block, Family, Pool, Trunk


class MyBackbone(Family):
    """Members are called by their number of blocks: my_backbone/6."""

    name = "my_backbone"
    summary = "an example: blocks of two convolutions"

    def build(self, backbone: Backbone) -> Trunk:
        width, count = 32, int(backbone.member or 6)
        stem = nn.Sequential(
            nn.Conv2d(backbone.image_shape[0], width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        blocks = [Block(self.residual(width)) for _ in range(count)]
        head = nn.Sequential(nn.ReLU(), Pool(), nn.Linear(width, backbone.num_classes))
        return Trunk(stem, blocks, head)

    def residual(self, width: int) -> nn.Module:
        layers: list[nn.Module] = []
        for _ in range(2):
            conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
            layers += [nn.ReLU(), conv, nn.BatchNorm2d(width)]
        return nn.Sequential(*layers)

    def members(self) -> tuple[str, ...]:
        return ("6", "4", "2")

    def ladder(self, member: str) -> Mapping[str, float]:
        own = int(member or 6)
        return {str(n): n / own for n in (4, 2) if n < own}
