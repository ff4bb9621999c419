"""The gated ResNet: its units and its trace, and what is shipped of it."""

from __future__ import annotations

import copy

import pytest
import torch
from gated_nets import (
    BLOCKS,
    MERGES,
    FixedGates,
    backbone,
    images,
    per_unit_net,
    season,
    seasoned,
    transplant,
)
from torch import nn

from bench.measure.cost import unit_macs
from bench.networks.gated import GatedResNet, block_columns
from bench.networks.policy import EverythingRuns

every_merge = pytest.mark.parametrize("merge", sorted(MERGES))
every_shortcut = pytest.mark.parametrize("shortcut", ["A", "B"])


@every_shortcut
def test_the_columns_of_the_trace_are_the_units_in_order(shortcut: str) -> None:
    net = per_unit_net("residual", shortcut)
    border = {2: ["block2.shortcut"], 4: ["block4.shortcut"]} if shortcut == "B" else {}
    blocks = [name for b in range(BLOCKS) for name in (f"block{b}", *border.get(b, []))]
    policy = [f"gate{b}" for b in range(BLOCKS) if b != 1]
    units = net.units()
    assert [unit.name for unit in units] == ["stem", *blocks, "head", *policy]
    assert [unit.name for unit in units if unit.role == "policy"] == policy
    gated = {f"block{b}" for b in range(BLOCKS) if b != 1}
    assert {unit.name for unit in units if not unit.always_on} == gated
    assert net(images(2)).executed.shape == (2, len(units))


@torch.no_grad()
def test_a_block_without_a_gate_runs_whatever_the_policy_emits() -> None:
    always_on = [True, False, False, True, False, True]
    net = season(GatedResNet(backbone(), FixedGates([0.0] * BLOCKS, always_on)))
    x = images(3)
    expected = net.forward_with(x, torch.tensor(always_on).float().expand(3, -1))
    for output in (net(x), net.execute(x)):
        assert torch.equal(output.executed, expected.executed)
        assert torch.equal(output.logits, expected.logits)


def test_spread_puts_gated_columns_in_place_and_ones_elsewhere_with_gradient() -> None:
    policy = FixedGates([0.0] * 5, [True, False, False, True, False])
    gated_ng = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], requires_grad=True)
    gates_nb = policy.spread(gated_ng)
    assert policy.gated == (1, 2, 4)
    expected = torch.tensor([[1, 0.1, 0.2, 1, 0.3], [1, 0.4, 0.5, 1, 0.6]])
    assert torch.equal(gates_nb, expected)
    (gradient,) = torch.autograd.grad((gates_nb * torch.arange(5.0)).sum(), gated_ng)
    assert torch.equal(gradient, torch.tensor([[1.0, 2.0, 4.0]]).expand(2, -1))
    everything = EverythingRuns([False] * 3)
    assert torch.equal(everything.spread(gated_ng), gated_ng)


@torch.no_grad()
def test_an_inference_net_ships_no_training_parts_and_no_dead_blocks() -> None:
    row = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    net = season(GatedResNet(backbone("B"), FixedGates(row, [False] * BLOCKS)))
    net.training_only["guide"] = nn.Linear(4, 4)
    names, x = set(net.state_dict()), images(5)
    shipped = net.inference_net(dead_blocks=frozenset({"block1", "block2", "block4"}))
    dead = ("blocks.1.residual", "blocks.2.residual", "blocks.4.residual")
    gone = {
        name
        for name in names
        if name.startswith("training_only") or any(part in name for part in dead)
    }
    assert set(shipped.state_dict()) == names - gone
    assert len(gone) == 2 + 3 * 12
    for ours, theirs in ((net(x), shipped.execute(x)), (net.execute(x), shipped.execute(x))):
        torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=0)
        assert torch.equal(ours.executed, theirs.executed)
    assert set(net.state_dict()) == names
    assert [unit.name for unit in shipped.units()] == [unit.name for unit in net.units()]


@every_merge
@every_shortcut
@torch.no_grad()
def test_a_dead_block_stays_skipped_even_where_its_gate_opens(merge: str, shortcut: str) -> None:
    net, x = seasoned(merge, shortcut), images(4)
    everything = FixedGates([1.0] * BLOCKS, [False] * BLOCKS)
    base = GatedResNet(net.backbone, everything, merge=MERGES[merge]()).eval()
    transplant(net.trunk, base)
    shipped = base.inference_net(dead_blocks=frozenset({"block2", "block3"}))
    gates_nb = torch.tensor([1.0, 1, 0, 0, 1, 1]).expand(4, -1)
    expected = net.forward_with(x, gates_nb)
    for output in (shipped(x), shipped.execute(x), shipped.execute(x[:1])):
        count = len(output.logits)
        torch.testing.assert_close(output.logits, expected.logits[:count], atol=1e-5, rtol=0)
        columns = block_columns(shipped.units())
        assert torch.equal(output.executed[:, columns], gates_nb[:count])


@torch.no_grad()
def test_a_block_that_always_runs_cannot_be_shipped_as_dead() -> None:
    net = GatedResNet(backbone()).eval()
    with pytest.raises(ValueError, match="block1 runs for every image"):
        net.inference_net(dead_blocks=frozenset({"block1"}))


@torch.no_grad()
def test_a_removed_block_is_skipped_counts_nothing_and_refuses_to_run() -> None:
    net = seasoned()
    cut = copy.deepcopy(net)
    cut.remove_blocks(frozenset({"block1"}))
    x, gates_nb = images(3), torch.ones(3, BLOCKS)
    gates_nb[:, 1] = 0
    for output in (cut(x), cut.execute(x)):
        torch.testing.assert_close(output.logits, net.forward_with(x, gates_nb).logits)
        assert torch.equal(output.executed[:, block_columns(cut.units())], gates_nb)
    assert unit_macs(cut)["block1"] == 0
    assert net.trunk.is_complete and not cut.trunk.is_complete
    with pytest.raises(RuntimeError, match="was removed"):
        cut.blocks[1](cut.trunk.stem(x))


@torch.no_grad()
def test_an_inference_net_shares_no_memory_with_the_original() -> None:
    net, x = season(GatedResNet(backbone())), images(3)
    before = net(x).logits
    shipped = net.inference_net()
    for parameter in shipped.parameters():
        parameter.zero_()
    assert torch.equal(net(x).logits, before)
    assert not torch.equal(shipped(x).logits, before)
