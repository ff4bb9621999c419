"""The two execution paths: equal to each other, and to the plain network at both ends."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.networks.execution import GateOutput, GateResidual, Merge
from bench.networks.gated import GatedResNet, block_columns, transplant
from bench.networks.policy import Decisions, EverythingRuns, Policy, UpFront
from bench.networks.resnet import Backbone, Shortcut
from bench.networks.unit import Unit

SHAPE = (3, 8, 8)
BLOCKS = 6
MERGES = {"residual": GateResidual, "output": GateOutput}
every_merge = pytest.mark.parametrize("merge", sorted(MERGES))
every_shortcut = pytest.mark.parametrize("shortcut", ["A", "B"])


class PooledGates(Policy):
    """One gate per block, from a linear layer on the pooled input of the block."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__([b == 1 for b in range(backbone.num_blocks)])
        per_stage = backbone.num_blocks // 3
        self.widths = [16 << (max(b - 1, 0) // per_stage) for b in range(backbone.num_blocks)]
        self.nets = nn.ModuleList(nn.Linear(width, 1) for width in self.widths)

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> Decisions:
        return _PooledDecisions(self)

    def units(self) -> Sequence[Unit]:
        return [
            Unit(f"gate{b}", self.nets[b], (self.widths[b],), True, "policy") for b in self.gated
        ]


class _PooledDecisions(Decisions):
    def __init__(self, policy: PooledGates) -> None:
        self.policy = policy
        self.scores: list[Tensor] = []

    def gate(self, index: int, h_nchw: Tensor) -> Tensor | None:
        if self.policy.always_on[index]:
            return None
        z_n: Tensor = self.policy.nets[index](h_nchw.mean(dim=(2, 3))).flatten()
        self.scores.append(z_n)
        return (z_n > 0).float()

    def terms(self) -> dict[str, Tensor]:
        return {"scores_ng": torch.stack(self.scores, dim=1)}


class FixedGates(Policy):
    """The same given row of gates for every image."""

    def __init__(self, row: Sequence[float], always_on: Sequence[bool]) -> None:
        super().__init__(always_on)
        self.row = torch.tensor(row)

    def begin(self, x_nchw: Tensor, stem_nchw: Tensor) -> UpFront:
        return UpFront(self.row.expand(len(x_nchw), -1), always_on=self.always_on)

    def units(self) -> Sequence[Unit]:
        return [Unit("nothing", nn.Identity(), (1,), True, "policy")]


def images(count: int, seed: int = 5) -> Tensor:
    draws = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return draws.contiguous(memory_format=torch.channels_last)


def backbone(shortcut: str = "A") -> Backbone:
    assert shortcut in ("A", "B")
    kind: Shortcut = "A" if shortcut == "A" else "B"
    return Backbone("resnet14", 10, SHAPE, kind)


def season(net: GatedResNet) -> GatedResNet:
    """Give batch norms statistics and affine parameters as training would leave them."""
    draws = torch.Generator().manual_seed(2)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=draws)
            module.bias.data.normal_(0, 0.3, generator=draws)
    net.train()
    with torch.no_grad():
        for seed in range(3):
            net(1.5 * images(16, seed) + 0.3)
    return net.eval()


@functools.cache
def seasoned(merge: str = "residual", shortcut: str = "A") -> GatedResNet:
    torch.manual_seed(1)
    return season(GatedResNet(backbone(shortcut), merge=MERGES[merge]()))


@functools.cache
def per_unit_net(merge: str, shortcut: str) -> GatedResNet:
    """Return a network whose gates read the state and are about half open, image by image."""
    torch.manual_seed(3)
    base = backbone(shortcut)
    net = season(GatedResNet(base, PooledGates(base), merge=MERGES[merge]()))
    assert isinstance(net.policy, PooledGates)
    with torch.no_grad():
        for position, b in enumerate(net.policy.gated):
            # One after the other: the scores of a gate depend on the gates before it.
            net.policy.nets[b].weight.mul_(20)
            scores_n = net(images(64, seed=8)).terms["scores_ng"][:, position]
            net.policy.nets[b].bias.sub_(scores_n.median() + 1e-3)
    return net


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


@every_merge
@every_shortcut
@torch.no_grad()
def test_with_all_units_off_only_stem_shortcuts_and_head_run(merge: str, shortcut: str) -> None:
    net, x = seasoned(merge, shortcut), images(5)
    h = net.trunk.stem(x)
    for block in net.blocks:
        h = block.shortcut(h)
        if merge == "residual":
            h = torch.relu(h)
    expected, zeros = net.trunk.head(h), torch.zeros(5, BLOCKS)
    for output in (net.forward_with(x, zeros), net.execute_with(x, zeros)):
        assert torch.equal(output.logits, expected)
        assert output.executed[:, block_columns(net.units())].sum() == 0


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


@every_merge
@every_shortcut
@pytest.mark.parametrize("count", [1, 2, 33])
@torch.no_grad()
def test_gates_that_read_the_state_agree_on_both_paths(
    merge: str, shortcut: str, count: int
) -> None:
    net, x = per_unit_net(merge, shortcut), images(count, seed=9)
    masked, skipping = net(x), net.execute(x)
    assert torch.equal(skipping.executed, masked.executed)
    torch.testing.assert_close(skipping.logits, masked.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        skipping.terms["scores_ng"], masked.terms["scores_ng"], atol=1e-3, rtol=1e-4
    )
    if count == 33:
        rates_b = masked.executed[:, block_columns(net.units())].mean(dim=0)
        assert rates_b[1] == 1
        assert all(0 < rate < 1 for b, rate in enumerate(rates_b.tolist()) if b != 1)


@every_merge
@torch.no_grad()
def test_the_other_images_of_a_batch_do_not_matter(merge: str) -> None:
    net, x = per_unit_net(merge, "B"), images(12, seed=9)
    for run in (net.forward, net.execute):
        together = run(x)
        for n in range(len(x)):
            alone = run(x[n : n + 1])
            assert torch.equal(alone.executed[0], together.executed[n])
            torch.testing.assert_close(alone.logits[0], together.logits[n], atol=1e-5, rtol=1e-5)


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
    out = merge.masked(shortcut, residual, gate_n)
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
def test_units_that_always_run_are_on_in_every_trace() -> None:
    net, x = per_unit_net("output", "B"), images(20, seed=9)
    units = net.units()
    always = [column for column, unit in enumerate(units) if unit.role != "block"]
    assert len(always) == 1 + 2 + 1 + (BLOCKS - 1)
    for output in (
        net(x),
        net.execute(x),
        net.forward_with(x, torch.zeros(20, BLOCKS)),
        net.execute_with(x, torch.zeros(20, BLOCKS)),
    ):
        assert (output.executed[:, always] == 1).all()


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
    base = copy.deepcopy(net)
    base.policy = FixedGates([1.0] * BLOCKS, [False] * BLOCKS)
    shipped = base.inference_net(dead_blocks=frozenset({"block2", "block3"}))
    gates_nb = torch.tensor([1.0, 1, 0, 0, 1, 1]).expand(4, -1)
    expected = net.forward_with(x, gates_nb)
    for output in (shipped(x), shipped.execute(x), shipped.execute(x[:1])):
        count = len(output.logits)
        torch.testing.assert_close(output.logits, expected.logits[:count], atol=1e-5, rtol=0)
        columns = block_columns(shipped.units())
        assert torch.equal(output.executed[:, columns], gates_nb[:count])


@torch.no_grad()
def test_removing_a_block_that_always_runs_is_refused_when_it_runs() -> None:
    net = GatedResNet(backbone()).eval()
    shipped = net.inference_net(dead_blocks=frozenset({"block1"}))
    for run in (shipped.forward, shipped.execute):
        with pytest.raises(RuntimeError, match="removed as dead"):
            run(images(2))


@torch.no_grad()
def test_an_inference_net_shares_no_memory_with_the_original() -> None:
    net, x = season(GatedResNet(backbone())), images(3)
    before = net(x).logits
    shipped = net.inference_net()
    for parameter in shipped.parameters():
        parameter.zero_()
    assert torch.equal(net(x).logits, before)
    assert not torch.equal(shipped(x).logits, before)


@torch.no_grad()
def test_the_weights_of_a_plain_trunk_can_be_transplanted() -> None:
    source, target = seasoned("residual", "B"), GatedResNet(backbone("B")).eval()
    x = images(3)
    assert not torch.equal(target(x).logits, source(x).logits)
    transplant(source.trunk, target)
    assert torch.equal(target(x).logits, source(x).logits)
