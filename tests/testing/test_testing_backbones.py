"""The conformance suite of backbones: healthy ones pass, broken ones fail by name; and methods on
backbones of other kinds."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet
from typer.testing import CliRunner

from bench.backbone import Backbone, Block, Family, Pool, Trunk, Wrapped
from bench.cli import app
from bench.errors import PluginError
from bench.method import METHODS
from bench.networks.trunk import BACKBONES
from bench.registry import Entry
from bench.scaffold.package import new_backbone
from bench.testing import backbone_checks, checks_of
from bench.testing.backbones import TrunkBench, require_original

TIMM = importlib.util.find_spec("timm") is not None


class Bottlenecks(Wrapped):
    """A small bottleneck ResNet."""

    name = "small-bottlenecks"

    def model(self, backbone: Backbone) -> nn.Module:
        layers = [int(backbone.member or 2), 1, 1, 1]
        return ResNet(Bottleneck, layers, backbone.num_classes, width_per_group=8)

    def ladder(self, member: str) -> dict[str, float]:
        return {"1": 0.5} if member != "1" else {}


class Transformer(Wrapped):
    """A small ViT."""

    name = "small-transformer"

    def model(self, backbone: Backbone) -> nn.Module:
        from timm.models.vision_transformer import VisionTransformer

        net: nn.Module = VisionTransformer(
            img_size=backbone.image_shape[1:],
            patch_size=4,
            embed_dim=24,
            depth=int(backbone.member or 3),
            num_heads=2,
            num_classes=backbone.num_classes,
        )
        return net

    def ladder(self, member: str) -> dict[str, float]:
        return {"1": 1 / 3} if member != "1" else {}


for kind in (Bottlenecks, Transformer):
    BACKBONES.add(kind, source="test")
needs_timm = pytest.mark.skipif(not TIMM, reason="pip install timm")
OTHERS = ("small-bottlenecks", pytest.param("small-transformer", marks=needs_timm))


@pytest.mark.parametrize("name", ["resnet8", *OTHERS])
def test_a_healthy_backbone_passes_all_its_checks(name: str) -> None:
    outcomes = [check.run() for check in backbone_checks(name)]
    assert [str(found) for found in outcomes if found.status == "failed"] == []
    exempt = {found.check for found in outcomes if found.status == "exempt"}
    assert exempt == ({"original"} if name == "resnet8" else set())


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet110", "torchvision/resnet50"])
def test_a_deep_backbone_is_tried_with_weights_that_do_not_overflow(name: str) -> None:
    bench = TrunkBench(name)
    assert bench.trunk(bench.images(2, seed=1)).abs().max() < 1e12


class Broken(Family):
    """A small backbone of which a test breaks one part."""

    name = "broken"

    def build(self, backbone: Backbone) -> Trunk:
        head = nn.Sequential(Pool(), nn.Linear(8, backbone.num_classes))
        blocks = [Block(nn.Conv2d(8, 8, 3, padding=1), after=nn.ReLU()) for _ in range(3)]
        return Trunk(nn.Conv2d(3, 8, 3, padding=1), blocks, head)


def with_(broken: Callable[[Trunk], Trunk]) -> type[Family]:
    class Found(Broken):
        def build(self, backbone: Backbone) -> Trunk:
            return broken(super().build(backbone))

    return Found


def settled(trunk: Trunk) -> Trunk:
    trunk.blocks[0].settled = True  # its stem gives negative numbers
    return trunk


def idle(trunk: Trunk) -> Trunk:
    trunk.register_parameter("nobody_s", nn.Parameter(torch.ones(2)))
    return trunk


def drawing(trunk: Trunk) -> Trunk:
    trunk.stem = nn.Sequential(trunk.stem, Noise())
    return trunk


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.rand_like(x)


class Hidden(Trunk):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.stem(x).mean())


def hidden(trunk: Trunk) -> Trunk:
    trunk.__class__ = Hidden
    return trunk


@pytest.mark.parametrize(
    ("part", "check", "said"),
    [
        (settled, "blocks", "block0 is settled, but its `after` changes"),
        (idle, "gradient", "trunk.nobody_s"),
        (drawing, "repeatable", ""),
        (hidden, "units", "computed between stem, blocks and head"),
        (hidden, "all_on", "is overridden"),
    ],
)
def test_a_broken_backbone_fails_the_check_that_is_for_it(
    part: Callable[[Trunk], Trunk], check: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES._added, "broken", Entry(with_(part)))
    [found] = [one.run() for one in backbone_checks("broken") if one.name == check]
    assert found.status == "failed"
    assert said in str(found)


def test_another_network_than_the_library_s_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(Bottlenecks):
        name = "forgetful"

        def build(self, backbone: Backbone) -> Trunk:
            trunk = super().build(backbone)
            trunk.stem = trunk.stem[:-1]  # without its pooling
            return trunk

    monkeypatch.setitem(BACKBONES._added, "forgetful", Entry(Forgetful))
    [found] = [one.run() for one in backbone_checks("forgetful") if one.name == "original"]
    assert found.status == "failed"
    assert "differ from those of the ResNet by up to" in found.detail
    with pytest.raises(PluginError, match="forgetful is not the network that it is made of"):
        require_original(Backbone("forgetful", 10, (3, 16, 16)))


@pytest.mark.parametrize("backbone", OTHERS)
@pytest.mark.parametrize("method", METHODS.names())
def test_built_in_methods_keep_the_contract_on_other_backbones(method: str, backbone: str) -> None:
    outcomes = [check.run() for check in checks_of(METHODS.get(method), backbone=backbone)]
    assert [str(found) for found in outcomes if found.status == "failed"] == []
    exempt = [found for found in outcomes if found.check == "trains" and found.status == "exempt"]
    refused = {
        "small-transformer": ("sact", "sgad", "dynconv"),
        "small-bottlenecks": ("sact", "a_vit"),
    }
    assert bool(exempt) is method.startswith(refused[backbone])
    reasons = ("needs maps", "needs the tokens", "3x3 convolutions")
    assert all(any(reason in one.detail for reason in reasons) for one in exempt)


def test_the_command_line_starts_and_checks_a_backbone(tmp_path: Path) -> None:
    runner, file = CliRunner(), tmp_path / "starter.py"
    started = runner.invoke(app, ["backbone", "new", "starter", "--out", str(file)])
    assert started.exit_code == 0, started.stderr
    again = runner.invoke(app, ["backbone", "new", "starter", "--out", str(file)])
    assert again.exit_code == 2
    checked = runner.invoke(app, ["backbone", "check", "starter/2", "--plugin", str(file)])
    assert checked.exit_code == 0, checked.stdout
    assert "17 passed, 1 exempt" in checked.stdout
    unknown = runner.invoke(app, ["backbone", "check", "resnet33"])
    assert unknown.exit_code == 2 and "resnet32" in unknown.stderr


def test_the_name_of_a_new_backbone_is_that_of_no_other(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="there is a backbone called 'timm' already"):
        new_backbone("timm", tmp_path / "x.py", taken=BACKBONES.names())
