"""The gradient at each block: by hand, zero where nobody runs, and nothing is left behind."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from deciding_nets import deciding_nets, images, skipping_net, small_backbone
from torch import Tensor, nn

from bench.data.augment import Batch
from bench.errors import Unsupported
from bench.measure.gradients import block_gradients
from bench.networks.gated import GatedResNet
from bench.networks.unit import DynamicNet, Output, Unit
from bench.seeding import random_fingerprint


class OneWeight(DynamicNet):
    """Logits (w * x, 0) of an image of one pixel: the block is a convolution of one weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.block = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.constant_(self.block.weight, weight)

    def units(self) -> Sequence[Unit]:
        return [Unit("block0", self.block, (1, 1, 1), False, "block")]

    def forward(self, x_nchw: Tensor) -> Output:
        z_n1 = self.block(x_nchw).flatten(1)
        logits = torch.cat([z_n1, torch.zeros_like(z_n1)], dim=1)
        return Output(logits, torch.ones(len(x_nchw), 1), {})

    def execute(self, x_nchw: Tensor) -> Output:
        return self(x_nchw)


class Undifferentiable(OneWeight):
    def forward(self, x_nchw: Tensor) -> Output:
        with torch.no_grad():
            return super().forward(x_nchw)


def batch(x_nchw: Tensor, labels: Sequence[int]) -> Batch:
    return Batch(x_nchw, torch.tensor(labels), torch.arange(len(labels)))


def labelled(side: int = 8) -> Batch:
    return batch(images(6, side=side), list(range(6)))


def test_the_number_is_the_one_worked_out_by_hand() -> None:
    # d/dw of CE with label 0 is (sigmoid(w x) - 1) x, with label 1 sigmoid(w x) x.
    net = OneWeight(0.5)
    pixels = torch.tensor([1.0, 2.0, -1.0]).view(3, 1, 1, 1)
    found = block_gradients(net, [batch(pixels[:2], [0, 1]), batch(pixels[2:], [0])])

    def sigmoid(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    first = ((sigmoid(0.5) - 1) * 1 + sigmoid(1.0) * 2) / 2
    second = (sigmoid(-0.5) - 1) * -1
    assert found == {"block0": pytest.approx(math.sqrt((first**2 + second**2) / 2), rel=1e-6)}


def test_all_weights_of_a_block_count_alike() -> None:
    net = GatedResNet(small_backbone("resnet8")).eval()
    one = labelled()
    found = block_gradients(net, [one])
    F.cross_entropy(net(one.x_nchw).logits, one.labels_n).backward()  # type: ignore[no-untyped-call]
    for b, block in enumerate(net.blocks):
        convs = [m.weight.grad for m in block.residual.modules() if isinstance(m, nn.Conv2d)]
        flat = torch.cat([grad.flatten() for grad in convs if grad is not None]).double()
        assert found[f"block{b}"] == pytest.approx(float(flat.square().mean().sqrt()), rel=1e-5)


def test_a_block_that_no_image_runs_has_no_gradient_at_all() -> None:
    found = block_gradients(skipping_net(small_backbone("resnet14"), [1, 4]), [labelled()])
    assert [name for name, value in found.items() if value == 0] == ["block1", "block4"]
    assert len(found) == 6 and all(math.isfinite(value) for value in found.values())


def test_a_removed_block_has_no_number() -> None:
    net = GatedResNet(small_backbone("resnet8"))
    net.blocks[1].remove()
    assert list(block_gradients(net, [labelled()])) == ["block0", "block2"]


def test_nothing_of_the_network_is_changed() -> None:
    for net in deciding_nets().values():
        net.train()
        net.blocks[0].eval()
        net.blocks[1].residual.requires_grad_(False)
        net.trunk.head.linear.bias.grad = torch.ones(10)
        modes = [module.training for module in net.modules()]
        wanted = [parameter.requires_grad for parameter in net.parameters()]
        state = {name: value.clone() for name, value in net.state_dict().items()}
        before = random_fingerprint()
        block_gradients(net, [labelled(side=16)])
        assert [module.training for module in net.modules()] == modes
        assert [parameter.requires_grad for parameter in net.parameters()] == wanted
        assert all(torch.equal(state[name], now) for name, now in net.state_dict().items())
        left = [name for name, p in net.named_parameters() if p.grad is not None]
        assert left == ["trunk.head.linear.bias"] and random_fingerprint() == before


def test_a_forward_without_gradient_is_refused_and_the_network_put_back() -> None:
    net = Undifferentiable(1.0)
    with pytest.raises(Unsupported, match="gives no gradient"):
        block_gradients(net, [batch(torch.ones(1, 1, 1, 1), [0])])
    assert net.training and net.block.weight.requires_grad


def test_a_gradient_that_is_no_number_is_refused() -> None:
    with pytest.raises(Unsupported, match="gradient of block0 is nan"):
        block_gradients(OneWeight(math.nan), [batch(torch.ones(1, 1, 1, 1), [0])])


def test_without_images_there_is_no_number() -> None:
    with pytest.raises(ValueError, match="no images"):
        block_gradients(OneWeight(1.0), [])
