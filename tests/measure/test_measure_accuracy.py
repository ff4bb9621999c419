"""Evaluation image by image, and the record of a point that is made from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from deciding_nets import deciding_nets, images, small_backbone
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bench.measure.accuracy import (
    Evaluation,
    evaluate,
    parameters,
    point_arrays,
    point_record,
)
from bench.measure.cost import dense_macs, unit_macs
from bench.networks.gated import GatedResNet
from bench.records.arrays import bits_in


@dataclass(frozen=True)
class Labelled:
    x_nchw: Tensor
    labels_n: Tensor
    index_n: Tensor


def in_batches(x_nchw: Tensor, labels_n: Tensor, order_n: Tensor, *, size: int) -> list[Labelled]:
    return [Labelled(x_nchw[i], labels_n[i], i) for i in torch.split(order_n, size)]


def test_every_image_is_judged_in_its_place_whatever_the_order_and_batch_size() -> None:
    net, x_nchw = deciding_nets()["up front"].eval(), images(50, side=16)
    labels_n = torch.randint(10, (50,))
    with torch.no_grad():
        output = net(x_nchw)
    shuffled = in_batches(x_nchw, labels_n, torch.randperm(50), size=16)
    evaluation = evaluate(net, shuffled, num_images=50)
    assert torch.equal(evaluation.correct_n, output.logits.argmax(dim=1) == labels_n)
    assert torch.equal(evaluation.executed_nu, output.executed)
    expected_n = F.cross_entropy(output.logits, labels_n, reduction="none")
    torch.testing.assert_close(evaluation.loss_n, expected_n, rtol=1e-4, atol=1e-5)
    assert evaluation.accuracy == evaluation.correct_n.double().mean().item()
    assert evaluation.executed_nu.dtype == evaluation.loss_n.dtype == torch.float32


def test_evaluation_leaves_statistics_and_every_mode_as_they_were() -> None:
    net = GatedResNet(small_backbone()).train()
    net.trunk.stem.eval()
    modes = [module.training for module in net.modules()]
    mean = net.blocks[0].residual.bn1.running_mean
    assert mean is not None
    before = mean.clone()
    batches = in_batches(images(8), torch.zeros(8, dtype=torch.int64), torch.arange(8), size=4)
    evaluate(net, batches, num_images=8)
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(mean, before)


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 1, 2, 2], [1, 2, 3, 4]])
def test_a_missing_repeated_or_foreign_image_is_refused(order: list[int]) -> None:
    labels_n = torch.zeros(5, dtype=torch.int64)
    batches = in_batches(images(5), labels_n, torch.tensor(order), size=2)
    with pytest.raises(ValueError, match="expected each of 4 images once"):
        evaluate(GatedResNet(small_backbone()), batches, num_images=4)


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_packed_bits_come_back_in_order(correct: list[bool]) -> None:
    bits = np.packbits(correct)
    assert bits_in({"x": bits}, "x", count=len(correct)).tolist() == correct


def test_the_record_of_a_point_states_costs_rates_masks_and_parameters() -> None:
    net = deciding_nets()["up front"]
    units, macs = net.units(), unit_macs(net)
    executed_nu = torch.ones(4, len(units))
    column = {unit.name: u for u, unit in enumerate(units)}
    executed_nu[:, column["block1"]] = 0
    executed_nu[:2, column["block2"]] = 0
    correct_n = torch.tensor([True, True, False, True])
    evaluation = Evaluation(correct_n, executed_nu, torch.zeros(4))
    dense = dense_macs(net.backbone)
    point = point_record(
        "t=1", evaluation, net=net, unit_macs=macs, dense_macs=dense, arrays_file="a.npz"
    )
    spared = [macs["block1"] + macs["block2"]] * 2 + [macs["block1"]] * 2
    executed = [sum(macs.values()) - less for less in spared]
    assert (point.accuracy, point.correct) == (0.75, 3)
    assert point.macs == np.mean(executed) and point.macs_std == np.std(executed)
    assert point.nflops == pytest.approx(np.mean(executed) / dense)
    policy = macs["decider"] / dense
    assert point.nflops - point.nflops_backbone == pytest.approx(policy)
    assert point.block_rates == {f"block{b}": {1: 0.0, 2: 0.5}.get(b, 1.0) for b in range(6)}
    assert point.gated_blocks == tuple(f"block{b}" for b in range(5))
    assert point.dead_blocks == ("block1",) and point.distinct_masks == 2
    assert point.mean_drop == pytest.approx(1.5 / 5)
    assert point.params == parameters(net)
    assert point.params - point.params_inference == parameters(net.blocks[1].residual)
    arrays = point_arrays(evaluation, net=net, unit_macs=macs)
    assert bits_in(arrays, "correct_bits", count=4).tolist() == correct_n.tolist()
    assert arrays["macs_n"].tolist() == executed
    assert arrays["executed_nu"].shape == (4, len(units))


def test_the_dense_network_drops_nothing_and_costs_one() -> None:
    net = GatedResNet(small_backbone())
    evaluation = Evaluation(torch.tensor([True]), torch.ones(1, len(net.units())), torch.zeros(1))
    point = point_record(
        "",
        evaluation,
        net=net,
        unit_macs=unit_macs(net),
        dense_macs=dense_macs(net.backbone),
        arrays_file="a.npz",
    )
    assert point.nflops == point.nflops_backbone == 1.0
    assert (point.mean_drop, point.macs_std, point.distinct_masks) == (0.0, 0.0, 1)
    assert point.gated_blocks == point.dead_blocks == ()
    assert point.params == point.params_inference
