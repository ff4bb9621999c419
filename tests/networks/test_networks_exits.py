"""The ResNet with exits: both paths, the trace and its cost, points as views, what is shipped."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from exit_nets import POINTS, RULES, calibrated, fresh
from gated_nets import BLOCKS, images, noted_shapes
from torch import Tensor

from bench.measure.cost import counted_macs, dense_macs, macs_per_image, unit_macs
from bench.networks.exit_heads import HeadKind
from bench.networks.exits import NUM_EXITS, ExitResNet
from bench.networks.trunk import Backbone

every_rule = pytest.mark.parametrize("rule", sorted(RULES))
every_head = pytest.mark.parametrize("head", ["pooled", "grid", "convolution"])
CIFAR32 = Backbone("resnet32", 10, (3, 32, 32))


def set_thresholds(net: ExitResNet, first: float, second: float) -> ExitResNet:
    net.get_buffer("rule.thresholds_pe").copy_(torch.tensor([first, second]).double())
    return net


def by_hand(net: ExitResNet, x_nchw: Tensor) -> tuple[Tensor, list[int]]:
    """Run image by image: stage, head, entropy below the threshold or the next stage."""
    thresholds_e = net.get_buffer("rule.thresholds_pe")[net.point]
    rows, ways = [], []
    for x in x_nchw:
        h = net.trunk.stem(x[None])
        for stage in range(3):
            for block in net.blocks[2 * stage : 2 * stage + 2]:
                h = block(h)
            z = net.exits[stage](h) if stage < 2 else net.trunk.head(h)
            p = torch.softmax(z.double(), dim=1)
            if stage == 2 or -(p * p.log()).sum() < thresholds_e[stage]:
                break
        rows.append(z)
        ways.append(stage)
    return torch.cat(rows), ways


@torch.no_grad()
def test_both_paths_are_what_image_by_image_gives() -> None:
    net, x = calibrated(), images(40, seed=60)
    for point in range(POINTS):
        logits, ways = by_hand(net.at(point), x)
        assert len(set(ways)) == 3, "images leave by all ways out"
        for output in (net.at(point)(x), net.at(point).execute(x)):
            torch.testing.assert_close(output.logits, logits, atol=1e-5, rtol=0)
        assert net.at(point)(x).terms["exit_n"].tolist() == ways


@torch.no_grad()
def test_at_entropy_zero_all_go_to_the_end_and_at_infinity_all_leave_at_exit_1() -> None:
    net, x = fresh(), images(20)
    macs = unit_macs(net)
    for output in (set_thresholds(net, 0, 0)(x), net.execute(x), net.execute(x[:1])):
        assert bool((output.executed == 1).all())
    infinity = float("inf")
    for output in (set_thresholds(net, infinity, infinity)(x), net.execute(x), net.execute(x[:1])):
        ran = [unit.name for unit, on in zip(net.units(), output.executed[0], strict=True) if on]
        assert ran == ["stem", "block0", "block1", "exit1"]
        assert bool((output.executed == output.executed[0]).all())
    assert counted_macs(partial(net.execute, x[:1])) == sum(macs[name] for name in ran)


@every_head
@torch.no_grad()
def test_with_everything_on_it_is_the_plain_resnet_bit_for_bit(head: HeadKind) -> None:
    net, x = calibrated("entropy", head), images(9)
    output = net.forward_all_on(x)
    assert torch.equal(output.logits, net.trunk(x))
    assert bool((output.executed == 1).all())


@torch.no_grad()
def test_in_training_mode_it_is_the_plain_resnet_with_the_same_statistics() -> None:
    net = copy.deepcopy(calibrated()).train()
    plain = copy.deepcopy(net.trunk)
    assert torch.equal(net.forward_all_on(images(6)).logits, plain(images(6)))
    for ours, theirs in zip(net.trunk.buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs)


@every_rule
def test_the_units_are_the_trunk_then_what_deciding_costs(rule: str) -> None:
    net = fresh(rule)
    rules = {"learned": ["exit1", "exit1.rule", "exit2", "exit2.rule"]}
    policy = rules.get(rule, ["exit1", "exit2"])
    border = {2: ["block2.shortcut"], 4: ["block4.shortcut"]}
    blocks = [name for b in range(BLOCKS) for name in (f"block{b}", *border.get(b, []))]
    units = net.units()
    assert [unit.name for unit in units] == ["stem", *blocks, "head", *policy]
    assert [unit.name for unit in units if unit.role == "policy"] == policy
    reached_by_all = {"stem", "block0", "block1", *(name for name in policy if "exit1" in name)}
    assert {unit.name for unit in units if unit.always_on} == reached_by_all
    assert {unit.role for unit in units if unit.name == "head"} == {"head"}


@every_head
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 28, 28), (3, 9, 7), (3, 4, 4)])
@torch.no_grad()
def test_units_read_what_they_say(shape: tuple[int, int, int], head: HeadKind) -> None:
    rule = RULES["learned"](1, NUM_EXITS)
    net = ExitResNet(Backbone("resnet14", 7, shape, "B"), rule, head=head).eval()
    seen = noted_shapes(net)
    assert net(torch.randn(2, *shape)).logits.shape == (2, 7)
    assert seen == {unit.name: unit.input_shape for unit in net.units()}


@every_rule
@every_head
@torch.no_grad()
def test_macs_of_the_trace_are_those_that_execution_spends(rule: str, head: HeadKind) -> None:
    net, x = calibrated(rule, head), images(12, seed=63)
    costs = list(unit_macs(net).values())
    for point in range(POINTS):
        view = net.at(point)
        from_trace = macs_per_image(view(x).executed, costs)
        assert counted_macs(partial(view.execute, x)) == from_trace.sum()
        for n in range(4):
            assert counted_macs(partial(view.execute, x[n : n + 1])) == from_trace[n]


def test_what_the_heads_of_a_resnet32_cost() -> None:
    rule = RULES["learned"](1, NUM_EXITS)
    costs = {
        head: unit_macs(ExitResNet(CIFAR32, rule, head=head))  # type: ignore[arg-type]
        for head in ("pooled", "grid", "convolution")
    }
    assert [costs["pooled"][f"exit{k}"] for k in (1, 2)] == [160, 320]
    assert [costs["grid"][f"exit{k}"] for k in (1, 2)] == [16 * 160, 16 * 320]
    convolutions = [32 * 32 * 16 * 16 * 9 + 160, 16 * 16 * 32 * 32 * 9 + 320]
    assert [costs["convolution"][f"exit{k}"] for k in (1, 2)] == convolutions
    assert costs["pooled"]["exit2.rule"] == 3
    assert dense_macs(CIFAR32) == 68_862_592


@torch.no_grad()
def test_a_point_is_a_view_that_shares_all_weights() -> None:
    net = copy.deepcopy(calibrated())
    views = net.views(["a", "b", "c"])
    assert [name for name, _ in views] == ["b", "a", "c"], "the middle one is the default"
    x = images(20, seed=67)
    assert torch.equal(net(x).executed, views[0][1](x).executed)
    runs = [view(x).executed.sum().item() for _, view in (views[1], views[0], views[2])]
    assert runs == sorted(runs) and len(set(runs)) == 3
    for _, view in views:
        pairs = zip(view.parameters(), net.parameters(), strict=True)
        assert all(ours is theirs for ours, theirs in pairs)
    for parameter in net.parameters():
        parameter.zero_()
    assert not bool(views[2][1](x).logits.any())


def test_a_compiled_network_does_not_answer_for_its_views() -> None:
    net = copy.deepcopy(calibrated())
    net._compiled_call_impl = lambda *arguments: pytest.fail("asked the network, not the view")
    net.at(0)(images(2))


@every_head
def test_every_classifier_teaches_what_lies_before_it(head: HeadKind) -> None:
    net = fresh(head=head).train()
    logits_wnk = net(images(8)).terms["exit_logits_wnk"]
    logits_wnk[0].square().sum().backward()
    reached = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    outside = ("trunk.blocks.2", "trunk.blocks.5", "trunk.head", "exits.1")
    assert not any(name.startswith(outside) for name in reached)
    assert {"trunk.stem.conv.weight", "trunk.blocks.1.residual.conv2.weight"} <= reached
    assert any(name.startswith("exits.0") for name in reached)


def test_side_logits_are_those_of_the_exits_and_leave_the_trunk_without_gradient() -> None:
    net = fresh(head="grid")
    x = images(8)
    with torch.no_grad():
        expected = net.exit_logits(x)[:2]
    found = net.side_logits(x)
    assert torch.equal(found, expected)
    found.square().sum().backward()
    with_gradient = {name for name, p in net.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, _ in net.named_parameters() if "exits" in name}
    macs = unit_macs(net)
    before = sum(macs[f"block{b}"] for b in range(4)) + macs["block2.shortcut"] + macs["stem"]
    assert counted_macs(lambda: net.side_logits(x[:1])) == before + macs["exit1"] + macs["exit2"]


@torch.no_grad()
def test_an_inference_net_shares_no_memory_and_keeps_the_point() -> None:
    view, x = calibrated().at(0), images(12)
    before = view(x)
    shipped = view.inference_net()
    assert torch.equal(shipped(x).executed, before.executed)
    for parameter in shipped.parameters():
        parameter.zero_()
    assert torch.equal(view(x).logits, before.logits)
