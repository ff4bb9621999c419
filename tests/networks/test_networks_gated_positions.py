"""Gates that are masks of positions: masked, really skipping, counted, on several backbones."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import pytest
import torch
from gated_nets import MERGES
from position_nets import PositionGates, images_for, position_net, random_masks
from torch import Tensor

from bench.errors import PluginError, Unsupported
from bench.measure.cost import counted_macs, macs_per_image, unit_macs
from bench.networks.execution import GateResidual, skipped
from bench.networks.gated import GatedResNet, block_columns
from bench.networks.local import LocalResidual
from bench.networks.splitting import split
from bench.networks.trunk import Shortcut

CASES = {
    "A": ("resnet14", (8, 8), "A"),
    "B": ("resnet14", (8, 8), "B"),
    "odd": ("resnet14", (9, 14), "B"),
    "basic": ("torchvision/resnet10", (32, 40), "A"),
    "bottleneck": ("torchvision/resnet50", (32, 32), "A"),
    "depthwise": ("torchvision/mobilenet_v2@0.35", (32, 32), "A"),
}
every_case = pytest.mark.parametrize("case", CASES)


def net_of(case: str, merge: str = "residual") -> GatedResNet:
    name, side, shortcut = CASES[case]
    kind: Shortcut = "A" if shortcut == "A" else "B"
    return position_net(name, side, kind, merge)


def by_hand(net: GatedResNet, x_nchw: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """Run straight from the formulas: each block everywhere, and then chosen by position."""
    h = net.trunk.stem(x_nchw)
    for block, mask in zip(net.blocks, masks, strict=True):
        shortcut = block.shortcut(h)
        ran = block.after(shortcut + block.residual(h))
        kept = block.after(shortcut.clone()) if isinstance(net.merge, GateResidual) else shortcut
        h = block.then(torch.where(mask > 0.5, ran, kept))
    logits: Tensor = net.trunk.head(h)
    return logits


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@every_case
@pytest.mark.parametrize("merge", sorted(MERGES))
@pytest.mark.parametrize("share", [0.03, 0.4, 0.9])
@torch.no_grad()
def test_really_skipping_gives_what_masking_gives_at_any_share(
    case: str, merge: str, share: float
) -> None:
    net = net_of(case, merge)
    x, masks = images_for(net, 3), random_masks(net, 3, share)
    masked, ran = net.forward_with(x, masks), net.execute_with(x, masks)
    close(ran.logits, masked.logits)
    close(masked.logits, by_hand(net, x, masks))
    assert torch.equal(ran.executed, masked.executed)
    spent = counted_macs(partial(net.execute_with, x, masks))
    traced = macs_per_image(ran.executed, list(unit_macs(net).values())).sum().item()
    policy = sum(unit_macs(net)[unit.name] for unit in net.policy.units())
    assert spent == pytest.approx(traced - 3 * policy, rel=1e-6)  # nothing was asked


@every_case
@torch.no_grad()
def test_full_and_empty_masks_are_the_dense_network_and_no_block(case: str) -> None:
    net = net_of(case)
    x = images_for(net, 2)
    full, empty = random_masks(net, 2, 1.1), random_masks(net, 2, -1.0)
    h = net.trunk.stem(x)
    for block in net.blocks:
        h = skipped(block, h, net.merge)
    none, columns = net.trunk.head(h), block_columns(net.units())
    for run in (net.forward_with, net.execute_with):
        assert torch.equal(run(x, full).logits, net.trunk(x))
        assert bool((run(x, full).executed[:, columns] == 1).all())
        assert torch.equal(run(x, empty).logits, none)
        assert not bool(run(x, empty).executed[:, columns].any())
    assert torch.equal(net.forward_all_on(x).logits, net.trunk(x))
    fixed = sum(unit_macs(net)[u.name] for u in net.units() if u.role not in ("block", "policy"))
    assert counted_macs(partial(net.execute_with, x, empty)) == 2 * fixed


@every_case
@torch.no_grad()
def test_a_strangers_masks_run_the_same_alone_and_in_a_batch(case: str) -> None:
    net = net_of(case)
    x = images_for(net, 6, seed=3)
    masked, ran = net(x), net.execute(x)
    close(ran.logits, masked.logits)
    assert torch.equal(ran.executed, masked.executed)
    shares = masked.executed[:, block_columns(net.units())][:, 2:]
    assert ((shares > 0) & (shares < 1)).float().mean() > 0.3
    for n in range(2):
        alone = net.execute(x[n : n + 1])
        close(alone.logits, masked.logits[n : n + 1])
        assert torch.equal(alone.executed, masked.executed[n : n + 1])


@torch.no_grad()
def test_the_masks_of_another_image_can_be_followed_at_its_cost() -> None:
    net = net_of("B")
    x, order = images_for(net, 8), torch.arange(8).roll(3)
    own, other = net(x), net.forward_permuted(x, order)
    columns = block_columns(net.units())
    assert torch.equal(other.executed[:, columns], own.executed[order][:, columns])
    assert not torch.equal(other.logits, own.logits)
    assert torch.equal(net.forward_permuted(x, torch.arange(8)).logits, own.logits)


@torch.no_grad()
def test_a_map_says_where_blocks_run() -> None:
    net = net_of("A").inference_net(dead_blocks=frozenset({"block3"}))
    x = images_for(net, 4)
    map_nhw, columns = net.position_costs(x), block_columns(net.units())
    trace_nb = net(x).executed[:, columns]
    assert map_nhw is not None and map_nhw.shape == (4, 8, 8) and not trace_nb[:, 3].any()
    torch.testing.assert_close(map_nhw.mean(dim=(1, 2)), trace_nb.sum(dim=1))
    gates = net.decided(x)
    alone = copy.deepcopy(net)
    expected = torch.ones(4, 8, 8)  # block 1 has no gate
    for b in (0, 2, 4, 5):
        gate = gates[b]
        assert gate is not None
        if b == 0:
            expected += gate.view(-1, 1, 1)
            continue
        size = net.backbone.input_shapes[b][1:]
        local = LocalResidual(alone.blocks[b])
        expected += local.coverage(local.needed(gate, size), size, (8, 8))[:, 0]
    torch.testing.assert_close(map_nhw, expected)


def test_in_training_shares_and_states_carry_the_gradient_of_the_masks() -> None:
    net = copy.deepcopy(net_of("B")).train()
    x = images_for(net, 4)
    masks = [mask.requires_grad_() for mask in random_masks(net, 4, 0.5)]
    net.forward_with(x, masks).logits.sum().backward()
    assert all(mask.grad is not None and bool(mask.grad.any()) for mask in masks)
    terms = net(x).terms
    assert terms["shares_nb"].shape == (4, 6)
    assert torch.equal(terms["shares_nb"], net(x).executed[:, block_columns(net.units())])


class Wrong(PositionGates):
    """Gates of a shape that none has, by `reshape`."""

    def decide(self, index: int, h_nchw: Tensor) -> Tensor:
        return h_nchw.mean(dim=1)


def test_a_gate_that_is_neither_of_an_image_nor_of_positions_is_named() -> None:
    backbone = net_of("A").backbone
    net = GatedResNet(backbone, Wrong(backbone)).eval()
    with pytest.raises(PluginError, match=r"The gate of block 0 has shape \(2, 8, 8\)") as error:
        net(images_for(net, 2))
    assert error.value.hint is not None and "(N, 1, h, w)" in error.value.hint


def test_what_only_divides_batches_refuses_positions() -> None:
    net = net_of("A")
    with pytest.raises(Unsupported, match="at some positions"):
        net.run(images_for(net, 2), split)
