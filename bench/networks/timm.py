"""timm's ViTs, DeiTs and EfficientNets; weights are random, nothing is downloaded.

Owns their names; library_trunks.py splits them into blocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from bench.errors import ConfigError, UnknownNameError
from bench.networks.library_trunks import Wrapped
from bench.networks.trunk import Backbone

_LISTED = (
    *("vit_tiny_patch4_32", "vit_tiny_patch16_224", "vit_small_patch16_224"),
    *("deit_tiny_patch16_224", "deit_small_patch16_224", "efficientnet_lite0"),
)
_PATCHES = re.compile(r"(.+_patch)(\d+)_\d+$")
_DEPTH = 12  # of the transformers whose ladder is declared: all but the large ones


class Timm(Wrapped):
    """What timm can create and library_trunks.py splits; behind an @ stands the number of layers.

    Where timm has no ViT with such patches, the one of the same size with others is built with
    them: vit_tiny_patch4_32 is vit_tiny_patch16_224 with patches of 4 pixels.
    """

    name = "timm"
    summary = "timm (skipbench[backbones]): any vit_*, deit_*, efficientnet_*"

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
