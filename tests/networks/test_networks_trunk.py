"""Backbones of libraries as trunks: the library's own network, in blocks that can be skipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bench.backbone import Backbone, Block, Family, Trunk, pool, trunk_of
from bench.config import BackboneSpec
from bench.engine.plan import shallower
from bench.errors import ConfigError, NotApplicable, PluginError, UnknownNameError
from bench.measure.cost import unit_macs
from bench.networks.execution import GateOutput, GateResidual, Merge
from bench.networks.gated import GatedResNet, block_columns
from bench.networks.trunk import BACKBONES, blocks_of
from bench.plugins import load_plugin
from bench.testing.backbones import perturbed, require_original
from methods.sact import Sact, SactConfig
from methods.sgad import Sgad, SgadConfig

pytest.importorskip("timm")
SMALL = (3, 32, 32)
LIBRARY = (
    *("torchvision/resnet10", "torchvision/resnet50", "torchvision/mobilenet_v2@0.35"),
    *("timm/vit_tiny_patch4_32@2", "timm/deit_tiny_distilled_patch16_224@2"),
    "timm/efficientnet_lite0",
)


def of_library(name: str) -> Backbone:
    return Backbone(name, 7, SMALL)


@pytest.mark.parametrize("name", LIBRARY)
def test_a_trunk_computes_what_the_library_s_own_network_computes(name: str) -> None:
    backbone = of_library(name)
    theirs, trunk = backbone.family.model(backbone), backbone.build()
    assert theirs is not None
    require_original(backbone)
    assert len(trunk.library_names) == len(theirs.state_dict()) == len(trunk.state_dict())


@torch.no_grad()
@pytest.mark.parametrize("merge", [GateResidual(), GateOutput()], ids=["residual", "output"])
@pytest.mark.parametrize("name", LIBRARY)
def test_skipping_gives_what_masking_gives_and_all_on_the_trunk(name: str, merge: Merge) -> None:
    net = GatedResNet(of_library(name), merge=merge)
    perturbed(net.trunk)
    net.eval()
    x = torch.randn(5, *SMALL)
    assert torch.equal(net.forward_all_on(x).logits, net.trunk(x))
    gates_nb = (torch.rand(5, len(net.blocks)) > 0.5).float()
    masked, skipping = net.forward_with(x, gates_nb), net.execute_with(x, gates_nb)
    scale = max(1.0, float(masked.logits.abs().max()))
    assert (masked.logits - skipping.logits).abs().max() <= 1e-4 * scale
    assert torch.equal(masked.executed, skipping.executed)
    assert torch.equal(masked.executed[:, block_columns(net.units())], gates_nb)


@pytest.mark.parametrize(
    ("name", "side", "macs"),
    # Of the whole network with 1000 classes at 224 px, in millions, as published.
    [
        ("torchvision/resnet18", 224, 1814.1),
        ("torchvision/resnet50", 224, 4089.2),
        ("torchvision/mobilenet_v2", 224, 300.8),
        ("timm/vit_tiny_patch16_224", 224, 1253.7),
    ],
)
def test_a_trunk_costs_what_is_published(name: str, side: int, macs: float) -> None:
    net = GatedResNet(Backbone(name, 1000, (3, side, side)))
    assert sum(unit_macs(net).values()) / 1e6 == pytest.approx(macs, abs=0.06)


def test_a_layer_without_a_residual_always_runs_and_is_counted_apart() -> None:
    net = GatedResNet(of_library("torchvision/mobilenet_v2"))
    roles = [(unit.name, unit.role, unit.always_on) for unit in net.units()]
    assert ("block0.then", "shortcut", True) in roles
    assert len(net.blocks) == 10, "of 17 inverted residuals 10 have a shortcut"
    assert {unit.name for unit in net.units() if unit.role == "block"} == {
        f"block{b}" for b in range(10)
    }


def test_attention_and_mlp_are_two_blocks_and_their_state_is_pooled_over_tokens() -> None:
    backbone = of_library("timm/vit_tiny_patch4_32@2")
    assert backbone.num_blocks == 4
    assert set(backbone.input_shapes) == {(65, 192)} and set(backbone.widths) == {192}
    h = backbone.build().stem(torch.randn(2, *SMALL))
    torch.testing.assert_close(pool(h), h.mean(dim=1))


@pytest.mark.parametrize(
    ("name", "rungs"),
    [
        ("resnet32", ["resnet20", "resnet14"]),
        ("resnet8", []),
        ("torchvision/resnet50", ["torchvision/resnet18", "torchvision/resnet10"]),
        ("torchvision/resnet18", ["torchvision/resnet10"]),
        ("timm/vit_tiny_patch4_32", ["timm/vit_tiny_patch4_32@7", "timm/vit_tiny_patch4_32@4"]),
        ("timm/efficientnet_lite0", []),
    ],
)
def test_smaller_networks_come_from_the_ladder_of_the_family(name: str, rungs: list[str]) -> None:
    assert shallower(Backbone(name, 10, (3, 32, 32))) == rungs
    assert {BackboneSpec(name=rung).family for rung in rungs} <= {BackboneSpec(name=name).family}


def test_families_are_differences_by_name() -> None:
    names = ["resnet32", "torchvision/resnet50", "torchvision/mobilenet_v2", "mine/7", "mine/b@3"]
    found = [BackboneSpec(name=name).family for name in names]
    assert found == ["resnet", "torchvision/resnet", "torchvision/mobilenet_v", "mine/", "mine/b"]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("torchvision/resnet51", "torchvision/resnet50"),
        ("timm/vit_tiny_patch16_224x", "timm/vit_tiny_patch16_224"),
        ("cifar/resnet33", "resnet32"),
        ("torchvisoin/resnet18", "torchvision"),
    ],
)
def test_unknown_names_are_refused_with_near_ones(name: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        Backbone(name, 10, SMALL)
    assert nearest in str(caught.value)


def test_a_shortcut_is_no_choice_of_other_families() -> None:
    with pytest.raises(ConfigError, match="choice of CIFAR ResNets"):
        Backbone("torchvision/resnet18", 10, SMALL, "B")


def test_a_method_that_needs_positions_says_so_where_there_are_none() -> None:
    tokens, bottlenecks = of_library("timm/vit_tiny_patch4_32@2"), of_library(LIBRARY[1])
    for method, config in ((Sact(), SactConfig()), (Sgad(), SgadConfig())):
        with pytest.raises(NotApplicable, match="tokens"):
            method.build(tokens, config)  # type: ignore[arg-type]
    with pytest.raises(NotApplicable, match=r"two 3x3 convolutions.*block1 of"):
        Sact().build(bottlenecks, SactConfig())


PLUGIN = """
from torchvision.models.resnet import BasicBlock, ResNet
from bench.backbone import Wrapped
class Mine(Wrapped):
    name = "mine_for_a_test"
    def model(self, backbone): return ResNet(BasicBlock, [1, 1, 1, 1], backbone.num_classes)
"""


def test_five_lines_bring_a_torchvision_model_and_its_code_is_part_of_what_it_is(
    tmp_path: Path,
) -> None:
    assert len(PLUGIN.strip().splitlines()) == 5
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    assert load_plugin(file) == []
    backbone = Backbone("mine_for_a_test", 4, SMALL)
    assert GatedResNet(backbone)(torch.randn(2, *SMALL)).logits.shape == (2, 4)
    grey = GatedResNet(Backbone("mine_for_a_test", 4, (1, 8, 8)))
    assert grey(torch.randn(2, 1, 8, 8)).logits.shape == (2, 4)
    assert not BACKBONES.is_built_in("mine_for_a_test")
    assert len(BACKBONES.code("mine_for_a_test")) > 8


def test_a_network_of_unknown_structure_is_refused_with_the_way_out() -> None:
    with pytest.raises(PluginError, match=r"stem, residual blocks and head") as caught:
        trunk_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    assert "docs/adding-a-backbone.md" in str(caught.value)
    with pytest.raises(PluginError, match=r"a SwinTransformer splits .* not known") as caught:
        of_library("timm/swin_tiny_patch4_window7_224").layout  # noqa: B018
    assert "timm's VisionTransformer" in str(caught.value)


def test_what_does_not_take_the_images_is_refused_before_anything_is_trained() -> None:
    class Narrow(Family):
        name = "narrow"

        def build(self, backbone: Backbone) -> Trunk:
            block = Block(nn.Conv2d(4, 4, 3, padding=1))
            head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 8 * 8, backbone.num_classes))
            return Trunk(nn.Conv2d(3, 4, 1), [block], head)

    BACKBONES.add(Narrow, source="test")
    assert Backbone("narrow", 3, (3, 8, 8)).num_blocks == 1
    assert blocks_of(Backbone("narrow", 3, (3, 8, 8)).build())[0].settled
    with pytest.raises(ConfigError, match="does not take images of 3x16x16"):
        Backbone("narrow", 3, (3, 16, 16)).layout  # noqa: B018
