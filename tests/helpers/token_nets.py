"""A small transformer written by hand, as a third party would, whose tokens halt; no tests here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from halting_nets import EPS, SHAPE
from torch import Tensor, nn

from bench.backbone import AttentionResidual, Backbone, Block, Family, TokenResidual, Trunk
from bench.networks.halting import HaltingResNet
from bench.networks.halting_policy import Needed
from bench.networks.tokens import TokenHalting
from bench.networks.trunk import BACKBONES

WIDTH, HEADS, LAYERS = 12, 3, 5
TOKENS = 1 + 4 * 4


class Embedding(nn.Module):
    """Patches of an image, four by four, as tokens behind a class token."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        side = shape[1] // 4
        self.patches = nn.Conv2d(shape[0], WIDTH, side, stride=side)
        self.first = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.places = nn.Parameter(torch.randn(1, TOKENS, WIDTH))

    def forward(self, x_nchw: Tensor) -> Tensor:
        patches_ntc = self.patches(x_nchw).flatten(2).transpose(1, 2)
        return torch.cat([self.first.expand(len(x_nchw), -1, -1), patches_ntc], 1) + self.places


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, h_ntc: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        split = self.qkv(h_ntc).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        read_nhtc = F.scaled_dot_product_attention(*split, attn_mask=attn_mask)
        out: Tensor = self.out(read_nhtc.transpose(1, 2).flatten(2))
        return out


class ClassHead(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.linear = nn.Linear(WIDTH, classes)

    def forward(self, h_ntc: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.norm(h_ntc)[:, 0])
        return logits


class ByHand(Family):
    """Members are called by their number of layers."""

    name = "by-hand"

    def build(self, backbone: Backbone) -> Trunk:
        blocks: list[Block] = []
        for _ in range(int(backbone.member or LAYERS)):
            work = 4 * WIDTH * WIDTH, 2 * WIDTH
            blocks.append(Block(AttentionResidual(nn.LayerNorm(WIDTH), Attention(), work=work)))
            mlp = nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
            blocks.append(Block(TokenResidual(nn.LayerNorm(WIDTH), *mlp)))
        return Trunk(Embedding(backbone.image_shape), blocks, ClassHead(backbone.num_classes))

    def ladder(self, member: str) -> dict[str, float]:
        own = int(member or LAYERS)
        return {str(n): n / own for n in range(1, own)}


BACKBONES.add(ByHand, source="test")
BACKBONE = Backbone("by-hand/5", 10, SHAPE)


def learned(width: int) -> nn.Module:
    """Return a score with weights of its own, as another method might have."""
    return nn.Linear(width, 1)


class First(nn.Module):
    """A score without weights."""

    def forward(self, h_ntc: Tensor) -> Tensor:
        return 1.5 * h_ntc[..., :1]


def net_of(kind: str = "learned", *, bias: float = -1.0, seed: int = 3) -> HaltingResNet:
    """Return a network in eval mode, in whose layers tokens halt one after the other."""
    torch.manual_seed(seed)
    make = learned if kind == "learned" else lambda width: First()
    return HaltingResNet(BACKBONE, TokenHalting(BACKBONE, make, eps=EPS, bias=bias)).eval()


def live_counts(net: HaltingResNet, x_nchw: Tensor) -> Tensor:
    """Return how many tokens run each layer (N, L), by the masked path."""
    seen = [torch.full((len(x_nchw),), TOKENS)]
    original = net.policy.shares

    def spy(block: int, needed: Needed) -> object:
        if block % 2 == 0:
            seen.append(needed[-1][..., 0].sum(dim=1))
        return original(block, needed)

    net.policy.shares = spy  # type: ignore[method-assign, assignment]
    net(x_nchw)
    del net.policy.shares
    return torch.stack(seen, dim=1)
