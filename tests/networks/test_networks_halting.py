"""The halting ResNet: both ends, both paths, and what the trace says of them."""

from __future__ import annotations

import copy

import pytest
import torch
from halting_nets import (
    EPS,
    every_kind,
    every_shortcut,
    images,
    masks_of,
    policy_of,
    seasoned,
    with_bias,
)
from torch import Tensor, nn

from bench.measure.cost import dense_macs, unit_macs
from bench.networks.halting import HaltingResNet
from bench.networks.positions import PositionHalting
from bench.networks.trunk import Backbone, Shortcut


def stacked(net: HaltingResNet, x_nchw: Tensor) -> Tensor:
    """Return the logits from all states at once: weights from a running sum, as defined."""
    h = net.trunk.stem(x_nchw)
    spatial = isinstance(net.policy, PositionHalting)
    for stage in net.policy.stages:
        state, states, scores = h, [], []
        active = torch.ones(())
        for b in stage.blocks:
            block = net.blocks[b]
            masked = active * block.residual(state) if spatial else block.residual(state)
            state = torch.relu(block.shortcut(state) + masked)
            states.append(state)
            if b == stage.blocks[-1]:
                break
            z = net.policy.scores[str(b)](state)
            z = z if spatial else z[:, :, None, None]
            scores.append(torch.sigmoid(z + net.policy.bias))
            active = (torch.stack(scores).sum(dim=0) < 1 - EPS).float()
        h_l = torch.stack([*scores, torch.ones_like(scores[0])])
        before_l = h_l.cumsum(dim=0) - h_l
        halted_l = h_l.cumsum(dim=0) >= 1 - EPS
        halted_l[-1] = True
        ran_l = before_l < 1 - EPS
        p_l = torch.where(halted_l, 1 - before_l, h_l) * ran_l
        assert (p_l.sum(dim=0) - 1).abs().max() < 1e-5
        h = (p_l * torch.stack(states)).sum(dim=0)
    logits: Tensor = net.trunk.head(h)
    return logits


@every_kind
@torch.no_grad()
def test_a_stage_returns_the_weighted_sum_of_its_states(kind: str) -> None:
    net, x = seasoned(kind), images(12, seed=8)
    torch.testing.assert_close(net(x).logits, stacked(net, x), atol=1e-4, rtol=1e-4)


@every_kind
@every_shortcut
@torch.no_grad()
def test_a_net_that_never_halts_is_the_dense_net_bit_for_bit(kind: str, shortcut: Shortcut) -> None:
    net, x = with_bias(seasoned(kind, shortcut), -1e4), images(5)
    plain = net.trunk(x)
    for output in (net(x), net.execute(x), seasoned(kind, shortcut).forward_all_on(x)):
        assert torch.equal(output.logits, plain)
        assert torch.equal(output.executed, torch.ones(5, len(net.units())))


@every_kind
@torch.no_grad()
def test_in_training_a_net_that_never_halts_is_the_dense_net_too(kind: str) -> None:
    net, x = with_bias(seasoned(kind), -1e4).train(), images(6)
    plain = copy.deepcopy(net.trunk)
    assert torch.equal(net(x).logits, plain(x))
    for ours, theirs in zip(net.trunk.buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs)


@every_kind
@torch.no_grad()
def test_a_net_that_halts_at_once_runs_one_block_per_stage(kind: str) -> None:
    net, x = with_bias(seasoned(kind), 1e4), images(3)
    h = net.trunk.stem(x)
    for stage in net.policy.stages:
        h = net.blocks[stage.blocks[0]](h)
    for output in (net(x), net.execute(x)):
        assert torch.equal(output.logits, net.trunk.head(h))
        ran = [
            unit.name
            for unit, n in zip(net.units(), output.executed[0], strict=True)
            if n and unit.role == "block"
        ]
        assert ran == ["block0", "block3", "block6"]


@every_kind
def test_one_block_per_stage_costs_a_resnet8_and_all_blocks_the_dense_net(kind: str) -> None:
    for name, dense, floor in (
        ("resnet32", 68_862_592, 0.178),
        ("resnet110", 252_887_680, 0.048),
    ):
        backbone = Backbone(name, 10, (3, 32, 32))
        net = HaltingResNet(backbone, policy_of(kind, backbone))
        units, macs = net.units(), unit_macs(net)
        trunk = {unit: macs[unit.name] for unit in units if unit.role != "policy"}
        assert sum(trunk.values()) == dense == dense_macs(backbone)
        least = sum(cost for unit, cost in trunk.items() if unit.always_on)
        assert least == 12_239_488
        assert least / dense == pytest.approx(floor, abs=5e-4)


@every_kind
def test_units_are_the_trunk_and_a_score_behind_every_block_but_the_last_of_a_stage(
    kind: str,
) -> None:
    net = seasoned(kind, "B")
    names = [unit.name for unit in net.units()]
    scores = [name for name in names if name.startswith("score")]
    parts = [""] if kind == "image" else ["", ".global"]
    assert scores == [f"score{b}{part}" for b in (0, 1, 3, 4, 6, 7) for part in parts]
    assert names[0] == "stem" and names.index("head") == len(names) - len(scores) - 1
    always = {unit.name for unit in net.units() if unit.always_on}
    assert {name for name in always if name.startswith("block")} == {
        *("block0", "block3", "block6", "block3.shortcut", "block6.shortcut")
    }
    assert {n for n in always if n.startswith("score")} == {
        f"score{b}{part}" for b in (0, 3, 6) for part in parts
    }


@torch.no_grad()
def test_an_image_that_has_halted_leaves_the_batch() -> None:
    net, x = copy.deepcopy(seasoned("image")), images(33, seed=9)
    rows: dict[str, int] = {}
    for b, block in enumerate(net.blocks):

        def count(module: nn.Module, args: tuple[Tensor, ...], name: str = f"block{b}") -> None:
            rows[name] = rows.get(name, 0) + len(args[0])

        block.residual.register_forward_pre_hook(count)
    output = net.execute(x)
    for unit, ran in zip(net.units(), output.executed.sum(dim=0).int().tolist(), strict=True):
        if unit.role == "block":
            assert rows[unit.name] == ran
    assert 0 < rows["block2"] < rows["block1"] < rows["block0"] == 33


@every_kind
def test_every_parameter_receives_gradient_through_the_masked_path(kind: str) -> None:
    net, x = copy.deepcopy(seasoned(kind)).train(), images(8, seed=15).requires_grad_()
    output = net(x)
    ponder_s = output.terms["ponder_ns"].mean(dim=0)
    assert output.terms["ponder_ns"].shape == output.terms["units_ns"].shape == (8, 3)
    assert (output.terms["units_ns"] <= output.terms["ponder_ns"]).all()
    (output.logits.square().mean() + ponder_s.sum()).backward()  # type: ignore[no-untyped-call]
    assert {n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()} == set()
    assert x.grad is not None and x.grad.any()
    assert not output.executed.requires_grad and not output.terms["units_ns"].requires_grad


@every_kind
@torch.no_grad()
def test_the_count_of_units_is_what_the_trace_says(kind: str) -> None:
    net, x = seasoned(kind), images(9, seed=16)
    output = net(x)
    column = {unit.name: c for c, unit in enumerate(net.units())}
    if kind == "image":
        names = [[f"block{b}" for b in stage.blocks] for stage in net.policy.stages]
        blocks = [output.executed[:, [column[n] for n in stage]].sum(dim=1) for stage in names]
        assert torch.equal(output.terms["units_ns"], torch.stack(blocks, dim=1))
    else:  # a score runs where its block's second convolution does
        last = torch.stack([m.float().mean(dim=(1, 2)) for m in masks_of(net, x).values()])
        expected = 1 + last.view(3, 2, 9).sum(dim=1).T
        torch.testing.assert_close(output.terms["units_ns"], expected)


@every_kind
@torch.no_grad()
def test_what_is_shipped_computes_the_same_without_what_only_training_needs(kind: str) -> None:
    net, x = seasoned(kind), images(4)
    net.training_only["guide"] = nn.Linear(2, 2)
    shipped = net.inference_net(dead_blocks=frozenset({"block2"}))
    for run in (shipped.forward, shipped.execute):
        torch.testing.assert_close(run(x).logits, net(x).logits, atol=1e-4, rtol=0)
        assert torch.equal(run(x).executed, net(x).executed)
    assert {name.split(".")[0] for name in set(net.state_dict()) - set(shipped.state_dict())} == {
        "training_only"
    }
