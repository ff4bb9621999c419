"""Small halting networks whose decisions differ everywhere, and images for them; no tests here."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor, nn

from bench.networks.halting import HaltingResNet
from bench.networks.halting_policy import HaltingPolicy, ImageHalting, Needed
from bench.networks.positions import LocalScore, PositionHalting, PositionScore
from bench.networks.trunk import Backbone, Shortcut

SHAPE = (3, 16, 16)
EPS = 0.01
KINDS = ("image", "position")
every_kind = pytest.mark.parametrize("kind", KINDS)
every_shortcut = pytest.mark.parametrize("shortcut", ["A", "B"])


def pooled(width: int) -> nn.Module:
    norm = nn.BatchNorm1d(width)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), norm, nn.Linear(width, 1))


def per_position(width: int) -> PositionScore:
    local = LocalScore(nn.BatchNorm2d(width), nn.Conv2d(width, 1, 3, padding=1))
    return PositionScore(local, pooled(width))


def policy_of(kind: str, backbone: Backbone, bias: float = -1.0) -> HaltingPolicy:
    if kind == "image":
        return ImageHalting(backbone, pooled, eps=EPS, bias=bias)
    return PositionHalting(backbone, per_position, eps=EPS, bias=bias)


def images(count: int, seed: int = 5, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    contrast = 0.2 + 1.6 * torch.rand(count, 1, 1, 1, generator=draws)
    x = contrast * torch.randn(count, *shape, generator=draws)
    return x.contiguous(memory_format=torch.channels_last)


@functools.cache
def seasoned(kind: str, shortcut: Shortcut = "A") -> HaltingResNet:
    """Return a ResNet-20 with trained-looking statistics whose halting differs from image to
    image, and from position to position."""
    torch.manual_seed(7)
    backbone = Backbone("resnet20", 10, SHAPE, shortcut)
    net = HaltingResNet(backbone, policy_of(kind, backbone, bias=0.0))
    draw_norms(net, torch.Generator().manual_seed(2))
    net.train()
    with torch.no_grad():
        for seed in range(3):
            net(images(32, seed))
        spread(net.eval())
    return net


def draw_norms(net: nn.Module, draws: torch.Generator) -> None:
    """Give batch norms weights as training would leave them."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=draws)
            module.bias.data.normal_(0, 0.3, generator=draws)


def spread(net: HaltingResNet) -> None:
    """Scale and shift the scores, one after the other, until halting differs everywhere."""
    original = net.policy.score

    def spreading(block: int, state_nchw: Tensor) -> Tensor:
        score = net.policy.scores[str(block)]
        z = score(state_nchw)
        for layer in score.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight.mul_(4 / z.std())
                if layer.bias is not None:
                    layer.bias.mul_(4 / z.std())
        last = [layer for layer in score.modules() if isinstance(layer, nn.Linear)][-1]
        last.bias.add_(0.5 - score(state_nchw).mean())
        return original(block, state_nchw)

    net.policy.score = spreading  # type: ignore[method-assign]
    net(images(64, seed=20))
    del net.policy.score


def with_bias(net: HaltingResNet, bias: float) -> HaltingResNet:
    twin = copy.deepcopy(net)
    twin.policy.bias = bias
    return twin


def masks_of(net: HaltingResNet, x_nchw: Tensor) -> dict[int, Tensor]:
    """Return the active positions (N, h, w) of each block but the first of its stage."""
    seen: dict[int, Tensor] = {}
    original = net.policy.shares

    def spy(block: int, needed: Needed) -> object:
        seen[block] = needed[-1][:, 0].clone()
        return original(block, needed)

    net.policy.shares = spy  # type: ignore[method-assign, assignment]
    net(x_nchw)
    del net.policy.shares
    return seen
