"""The two execution paths: equal to each other, and to the plain network at both ends."""

from __future__ import annotations

import copy

import pytest
import torch
from gated_nets import BLOCKS, MERGES, backbone, images, per_unit_net, season, seasoned, transplant
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.networks.execution import GateOutput, GateResidual, Merge
from bench.networks.gated import GatedResNet, block_columns
from bench.networks.trunk import Block

every_merge = pytest.mark.parametrize("merge", sorted(MERGES))
every_shortcut = pytest.mark.parametrize("shortcut", ["A", "B"])


def by_hand(net: GatedResNet, x_nchw: Tensor, gates_nb: Tensor) -> Tensor:
    """Run image by image, straight from the two formulas of the merge rules."""
    rows = []
    for x, gates_b in zip(x_nchw, gates_nb, strict=True):
        h = net.trunk.stem(x[None])
        for block, gate in zip(net.blocks, gates_b, strict=True):
            shortcut = block.shortcut(h)
            if gate:
                h = torch.relu(shortcut + block.residual(h))
            else:
                h = torch.relu(shortcut) if isinstance(net.merge, GateResidual) else shortcut
        rows.append(net.trunk.head(h))
    return torch.cat(rows)


@every_merge
@every_shortcut
@torch.no_grad()
def test_with_all_units_on_it_is_the_plain_resnet_bit_for_bit(merge: str, shortcut: str) -> None:
    net, x = seasoned(merge, shortcut), images(5)
    plain, ones = net.trunk(x), torch.ones(5, BLOCKS)
    for output in (
        net(x),
        net.execute(x),
        net.forward_with(x, ones),
        net.execute_with(x, ones),
    ):
        assert torch.equal(output.logits, plain)
        assert torch.equal(output.executed, torch.ones(5, len(net.units())))


@every_merge
@torch.no_grad()
def test_in_training_mode_all_units_on_is_the_plain_resnet_too(merge: str) -> None:
    net = GatedResNet(backbone(), merge=MERGES[merge]())
    plain = GatedResNet(backbone())
    transplant(net.trunk, plain)
    x = images(6)
    gated = net.train().forward_with(x, torch.ones(6, BLOCKS)).logits
    assert torch.equal(gated, plain.train().trunk(x))
    for ours, theirs in zip(net.trunk.buffers(), plain.trunk.buffers(), strict=True):
        assert torch.equal(ours, theirs)


@every_shortcut
@torch.no_grad()
def test_a_residual_runs_on_the_images_that_chose_it_and_on_no_other(shortcut: str) -> None:
    net, x = copy.deepcopy(seasoned("residual", shortcut)), images(8)
    gates_nb = torch.randint(2, (8, BLOCKS), generator=torch.Generator().manual_seed(6)).float()
    gates_nb[:, 0], gates_nb[:, 3] = 1, 0
    rows = [0] * BLOCKS
    for b, block in enumerate(net.blocks):

        def count(module: nn.Module, args: tuple[Tensor, ...], b: int = b) -> None:
            rows[b] += len(args[0])

        block.residual.register_forward_pre_hook(count)
    net.execute_with(x, gates_nb)
    assert rows == gates_nb.sum(dim=0).int().tolist()
    assert rows[0] == 8 and rows[3] == 0 and len(set(rows)) > 2


batches_of_gates = st.integers(1, 7).flatmap(
    lambda count: st.lists(
        st.lists(st.sampled_from([0.0, 1.0]), min_size=BLOCKS, max_size=BLOCKS),
        min_size=count,
        max_size=count,
    )
)


@given(
    gates=batches_of_gates,
    merge=st.sampled_from(sorted(MERGES)),
    shortcut=st.sampled_from(["A", "B"]),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=60, derandomize=True)
@torch.no_grad()
def test_skipping_equals_masking_for_any_mask_and_batch_size(
    gates: list[list[float]], merge: str, shortcut: str, seed: int
) -> None:
    net, x, gates_nb = seasoned(merge, shortcut), images(len(gates), seed), torch.tensor(gates)
    masked, skipping = net.forward_with(x, gates_nb), net.execute_with(x, gates_nb)
    torch.testing.assert_close(skipping.logits, masked.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(masked.logits, by_hand(net, x, gates_nb), atol=1e-4, rtol=0)
    assert torch.equal(skipping.executed, masked.executed)
    assert torch.equal(masked.executed[:, block_columns(net.units())], gates_nb)


@torch.no_grad()
def test_the_merge_rules_agree_for_hard_gates_with_shortcut_a_only() -> None:
    draws = torch.Generator().manual_seed(4)
    gates_nb, x = torch.randint(2, (16, BLOCKS), generator=draws).float(), images(16)
    outputs: dict[str, list[Tensor]] = {}
    for shortcut in ("A", "B"):
        nets = [seasoned(merge, shortcut) for merge in ("residual", "output")]
        transplant(nets[0].trunk, nets[1])
        outputs[shortcut] = [net.forward_with(x, gates_nb).logits for net in nets]
    assert torch.equal(*outputs["A"])
    assert (outputs["B"][0] - outputs["B"][1]).abs().max() > 1e-2


def gate_gradient(merge: Merge, shortcut: Tensor, residual: Tensor, gate: float) -> Tensor:
    gate_n = torch.full((1,), gate, requires_grad=True)
    block = Block(nn.Identity(), after=nn.ReLU())
    out = merge.masked(block, shortcut, residual, gate_n)
    weights = torch.arange(1.0, out.numel() + 1).view_as(out)
    (gradient,) = torch.autograd.grad((out * weights).sum(), gate_n)
    return gradient


@pytest.mark.parametrize("gate", [0.0, 1.0])
def test_the_gradient_of_a_gate_is_what_its_rule_says(gate: float) -> None:
    shortcut = torch.tensor([0.0, 0.0, 1.0, 2.0]).view(1, 4, 1, 1)
    residual = torch.tensor([0.7, -0.7, -3.0, 0.5]).view(1, 4, 1, 1)
    weights = torch.arange(1.0, 5).view(1, 4, 1, 1)
    kept = (shortcut + gate * residual > 0).float()
    # Where the state is zero and the gate closed, ReLU(S + gF) passes nothing back.
    of_residual = (weights * residual * kept).sum()
    of_output = (weights * (torch.relu(shortcut + residual) - shortcut)).sum()
    torch.testing.assert_close(
        gate_gradient(GateResidual(), shortcut, residual, gate), of_residual.view(1)
    )
    torch.testing.assert_close(
        gate_gradient(GateOutput(), shortcut, residual, gate), of_output.view(1)
    )
    assert abs(float(of_residual - of_output)) > 0.1


@every_merge
def test_gates_weights_and_images_receive_gradient_through_the_masked_path(merge: str) -> None:
    net, x = season(GatedResNet(backbone("B"), merge=MERGES[merge]())), images(4)
    gates_nb = torch.full((4, BLOCKS), 0.5, requires_grad=True)
    output = net.forward_with(x.requires_grad_(), gates_nb)
    output.logits.square().sum().backward()  # type: ignore[no-untyped-call]
    assert gates_nb.grad is not None and (gates_nb.grad.abs() > 0).all()
    assert all(p.grad is not None and p.grad.any() for p in net.trunk.parameters())
    assert x.grad is not None and x.grad.any()
    assert not output.executed.requires_grad


@every_merge
@every_shortcut
@torch.no_grad()
def test_executing_changes_neither_the_images_nor_the_gates_nor_the_network(
    merge: str, shortcut: str
) -> None:
    net, x = per_unit_net(merge, shortcut), images(6)
    gates_nb = (torch.arange(6 * BLOCKS).view(6, BLOCKS) % 3 > 0).float()
    before = [tensor.clone() for tensor in (x, gates_nb, *net.state_dict().values())]
    first, mode = net.execute(x), net.training
    net.execute_with(x, gates_nb)
    for old, new in zip(before, (x, gates_nb, *net.state_dict().values()), strict=True):
        assert torch.equal(old, new)
    assert torch.equal(net.execute(x).logits, first.logits)
    assert net.training is mode is False
