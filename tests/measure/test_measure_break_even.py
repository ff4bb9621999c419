"""The break-even share: for every kind of block, between 0 and 1, by what is faster."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.measure import break_even
from bench.measure.break_even import measure_break_even
from bench.networks.halting import HaltingResNet
from bench.networks.halting_policy import ImageHalting
from bench.networks.positions import LocalScore, PositionHalting, PositionScore
from bench.networks.resnet import Backbone

BACKBONE = Backbone("resnet14", 10, (3, 16, 16))


def whole(width: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1))


def score(width: int) -> PositionScore:
    return PositionScore(LocalScore(nn.Identity(), nn.Conv2d(width, 1, 3, padding=1)), whole(width))


def net() -> HaltingResNet:
    return HaltingResNet(BACKBONE, PositionHalting(BACKBONE, score, eps=0.01, bias=-1.0))


def test_every_kind_of_block_gets_a_share_and_the_network_stays_as_it_was() -> None:
    subject = net().train()
    before = {name: value.clone() for name, value in subject.state_dict().items()}
    found = measure_break_even(subject, 2, "cpu")
    assert set(found) == {"16x16x16, batch", "32x8x8, batch", "64x4x4, batch"}
    assert all(0 <= share <= 1 for share in found.values())
    assert subject.training
    assert all(torch.equal(before[name], now) for name, now in subject.state_dict().items())


@pytest.mark.parametrize(("limit", "expected"), [(2.0, 1.0), (0.55, 0.5), (0.0, 0.0)])
def test_the_share_is_the_last_one_at_which_skipping_pays(
    limit: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(break_even, "_skipping_pays", lambda _b, _s, share, _d: share < limit)
    assert set(measure_break_even(net(), 1, "cpu").values()) == {expected}


def test_a_network_whose_images_halt_has_no_break_even_share() -> None:
    other = HaltingResNet(BACKBONE, ImageHalting(BACKBONE, whole, eps=0.01, bias=-1.0))
    with pytest.raises(ValueError, match="positions"):
        measure_break_even(other, 1, "cpu")
