"""The backbone family: exact sizes, input shapes, shortcuts, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from gated_nets import noted_shapes
from torch import nn

from bench.errors import ConfigError, UnknownNameError
from bench.measure.cost import counted_macs
from bench.networks.cifar_resnet import MEMBERS, ResNet, depth_of
from bench.networks.gated import GatedResNet
from bench.networks.trunk import Backbone, Shortcut

CIFAR = (3, 32, 32)

# Depth: MACs with shortcut A, parameters with A, parameters with B; 10 classes, 32x32.
SIZES = {
    8: (12_239_488, 75_290, 78_042),
    14: (26_395_264, 172_506, 175_258),
    20: (40_551_040, 269_722, 272_474),
    26: (54_706_816, 366_938, 369_690),
    32: (68_862_592, 464_154, 466_906),
    38: (83_018_368, 561_370, 564_122),
    44: (97_174_144, 658_586, 661_338),
    56: (125_485_696, 853_018, 855_770),
    74: (167_953_024, 1_144_666, 1_147_418),
    110: (252_887_680, 1_727_962, 1_730_714),
}
PROJECTION_MACS = 2 * 131_072
INNER_BLOCK_MACS, BORDER_BLOCK_MACS = 4_718_592, 3_538_944


def without_memory(depth: int, *, shortcut: Shortcut = "A", num_classes: int = 10) -> ResNet:
    with torch.device("meta"):
        return ResNet(depth, shortcut=shortcut, num_classes=num_classes, channels=3).eval()


def macs_of(net: nn.Module, shape: tuple[int, ...] = CIFAR) -> int:
    return counted_macs(lambda: net(torch.empty(1, *shape, device="meta")))


def parameters_of(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("depth", SIZES)
def test_macs_and_parameters_are_those_of_the_table_to_the_digit(depth: int) -> None:
    macs, params_a, params_b = SIZES[depth]
    net_a, net_b = without_memory(depth), without_memory(depth, shortcut="B")
    assert (macs_of(net_a), parameters_of(net_a)) == (macs, params_a)
    assert (macs_of(net_b), parameters_of(net_b)) == (macs + PROJECTION_MACS, params_b)


def test_a_hundred_classes_cost_5760_macs_and_5850_parameters_more() -> None:
    ten, hundred = without_memory(32), without_memory(32, num_classes=100)
    assert macs_of(hundred) - macs_of(ten) == 5_760
    assert parameters_of(hundred) - parameters_of(ten) == 5_850


@pytest.mark.parametrize("name", MEMBERS)
def test_the_name_says_the_depth_and_the_layout_the_blocks(name: str) -> None:
    backbone = Backbone(name, 10, CIFAR)
    depth = depth_of(name)
    net = without_memory(depth)
    assert Backbone(f"cifar/{name}", 10, CIFAR) == backbone
    assert len(net.blocks) == backbone.num_blocks
    # Two convolutions per block, the stem and the classifier make the depth.
    weighted = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == depth


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 28, 28), (3, 9, 9), (3, 4, 4), (4, 12, 7)])
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_other_image_shapes_run_and_units_read_what_they_say(
    shape: tuple[int, int, int], shortcut: Shortcut
) -> None:
    net = GatedResNet(Backbone("resnet14", 7, shape, shortcut)).eval()
    seen = noted_shapes(net)
    with torch.no_grad():
        output = net(torch.randn(2, *shape))
    assert output.logits.shape == (2, 7)
    assert torch.isfinite(output.logits).all()
    assert seen == {unit.name: unit.input_shape for unit in net.units()}


@pytest.mark.parametrize("size", [(3, 3), (3, 32), (32, 2), (1, 1)])
def test_images_too_small_to_halve_twice_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=f"{size[0]}x{size[1]} pixels are too small") as caught:
        Backbone("resnet8", 10, (3, *size))
    assert "at least 4 a side" in str(caught.value)


def test_an_unknown_depth_is_refused_with_near_names() -> None:
    with pytest.raises(UnknownNameError, match="resnet33") as caught:
        Backbone("resnet33", 10, CIFAR)
    assert "'resnet32'" in str(caught.value)


def test_shortcut_a_takes_every_second_pixel_and_pads_channels_on_both_sides() -> None:
    block = GatedResNet(Backbone("resnet8", 10, CIFAR)).blocks[1]
    x = torch.randn(2, 16, 5, 6)
    padded = block.shortcut(x)
    assert padded.shape == (2, 32, 3, 3)
    assert torch.equal(padded[:, 8:24], x[:, :, ::2, ::2])
    assert not padded[:, :8].any() and not padded[:, 24:].any()
    assert parameters_of(block.shortcut) == 0


def test_shortcut_b_is_a_projection_at_the_two_borders_only() -> None:
    net = GatedResNet(Backbone("resnet14", 10, CIFAR, "B")).eval()
    projected = [isinstance(block.shortcut, nn.Sequential) for block in net.blocks]
    assert projected == [False, False, True, False, True, False]
    border, x = net.blocks[2], torch.randn(2, 16, 8, 8)
    projection = border.shortcut
    shortcut = projection.bn(projection.conv(x))
    assert torch.equal(border(x), torch.relu(shortcut + border.residual(x)))
    assert (shortcut < 0).any()


def test_a_backbone_with_weights_builds_the_same_network() -> None:
    source = Backbone("resnet8", 10, CIFAR, "B").build()
    copy = Backbone("resnet8", 10, CIFAR, "B", source.state_dict()).build()
    x = torch.randn(2, *CIFAR)
    assert torch.equal(source.eval()(x), copy.eval()(x))
