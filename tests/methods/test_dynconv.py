"""DynConv against its conformance points: what is decided, what runs, both budget losses."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from method_nets import batch_of
from small_runs import digit_images, nflops, trained_on_digits
from torch import Tensor, nn

from bench.errors import NotApplicable
from bench.measure.cost import counted_macs, dense_macs, macs_per_image, unit_macs
from bench.method import Backbone, OptimizerSpec
from bench.networks.execution import GateResidual
from bench.networks.gated import GatedResNet, block_columns
from methods.dynconv import (
    BudgetedMasks,
    DynConv,
    DynConvConfig,
    bounds,
    budget_loss,
    drawn_mask,
    rounded_mask,
)

BACKBONE = Backbone("resnet14", 10, (3, 16, 16), "B")
RESNET32 = Backbone("resnet32", 10, (3, 32, 32), "B")


def _net(backbone: Backbone = BACKBONE) -> GatedResNet:
    torch.manual_seed(0)
    net = DynConv().build(backbone, DynConvConfig())
    return net


def _phase(config: DynConvConfig | None = None) -> BudgetedMasks:
    given = config or DynConvConfig()
    return BudgetedMasks("masked", given, epochs=1, batch_size=16, optimizer=OptimizerSpec())


@torch.no_grad()
def _decide(net: GatedResNet, *, bias: float) -> None:
    """Let every gate say the same everywhere."""
    for block in range(len(net.blocks)):
        gate = net.policy.gates[block]
        for layer in (gate.local, gate.whole):
            layer.weight.zero_()
            nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]


@torch.no_grad()
def test_a_score_is_a_convolution_of_the_input_plus_one_number_for_the_image() -> None:
    net = _net().eval()
    seen: list[tuple[Tensor, Tensor]] = []
    for block in range(6):
        net.policy.gates[block].register_forward_hook(
            lambda _, args, out: seen.append((args[0], out))
        )
    inputs: list[Tensor] = []
    for block in net.blocks:
        block.residual.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    net(batch_of(3).x_nchw)
    for b, ((x, s), given) in enumerate(zip(seen, inputs, strict=True)):
        gate = net.policy.gates[b]
        assert torch.equal(x, given)  # its own block's input: nothing is carried
        by_hand = gate.local(x) + gate.whole(x.mean(dim=(2, 3))).view(-1, 1, 1, 1)
        torch.testing.assert_close(s, by_hand)
    # Stride-2 blocks: the mask has the size of the output.
    sides = [tuple(s.shape) for _, s in seen]
    assert sides == [(3, 1, side, side) for side in (16, 16, 8, 8, 4, 4)]


def test_all_blocks_have_a_gate_borders_included_and_the_gates_cost_what_was_worked_out() -> None:
    net = _net(RESNET32)
    assert net.policy.gated == tuple(range(15)) and isinstance(net.merge, GateResidual)
    costs = unit_macs(net)
    convs = sum(costs[f"gate{b}"] for b in range(15))
    assert convs == 1_234_944
    assert convs / dense_macs(RESNET32) == pytest.approx(0.018, abs=5e-4)
    assert [costs[f"gate{b}.whole"] for b in (0, 5, 6, 14)] == [16, 16, 32, 64]


@torch.no_grad()
def test_with_all_masks_set_it_is_the_dense_network_bit_for_bit() -> None:
    net, x = _net().eval(), batch_of(4).x_nchw
    _decide(net, bias=1.0)
    for output in (net(x), net.execute(x), net.forward_all_on(x)):
        assert torch.equal(output.logits, net.trunk(x))
        assert bool((output.executed == 1).all())


@torch.no_grad()
def test_with_no_mask_set_only_stem_shortcuts_head_and_gates_run() -> None:
    net, x = _net().eval(), batch_of(4).x_nchw
    _decide(net, bias=-1.0)
    h = net.trunk.stem(x)
    for block in net.blocks:
        h = torch.relu(block.shortcut(h))
    for output in (net(x), net.execute(x)):
        assert torch.equal(output.logits, net.trunk.head(h))
    costs = unit_macs(net)
    floor = sum(costs[unit.name] for unit in net.units() if unit.role != "block")
    assert macs_per_image(net(x).executed, list(costs.values())).tolist() == [floor] * 4
    assert counted_macs(partial(net.execute, x)) == 4 * floor


@torch.no_grad()
def test_a_score_of_zero_runs() -> None:
    net, x = _net().eval(), batch_of(2).x_nchw
    _decide(net, bias=0.0)
    assert bool((net(x).executed == 1).all())


@torch.no_grad()
def test_an_image_costs_the_positions_of_its_masks_and_a_batch_their_mean() -> None:
    net, x = _net().eval(), batch_of(6).x_nchw
    costs = unit_macs(net)
    found_n = macs_per_image(net(x).executed, list(costs.values()))
    fixed = sum(costs[unit.name] for unit in net.units() if unit.role != "block")
    for n, gates in enumerate(zip(*(g for g in net.decided(x) if g is not None), strict=True)):
        spent = float(fixed)
        for block, mask in zip(net.blocks, gates, strict=True):
            grown = nn.functional.max_pool2d(mask[None], 3, stride=1, padding=1)
            first, second = block.residual.conv1.weight, block.residual.conv2.weight
            spent += int(grown.sum()) * first.numel() + int(mask.sum()) * second.numel()
        assert found_n[n].item() == pytest.approx(spent, rel=1e-6)
        alone = counted_macs(partial(net.execute, x[n : n + 1]))
        assert alone == pytest.approx(spent, rel=1e-6)
    assert found_n.std() > 0
    batch = counted_macs(partial(net.execute, x)) / len(x)
    assert batch == pytest.approx(found_n.mean().item(), rel=1e-6)


def test_training_draws_and_evaluation_does_not() -> None:
    net, x = _net(), batch_of(8).x_nchw
    net.train()
    drawn = [net(x).executed for _ in range(2)]
    net.policy.noisy = False
    settled = [net(x).executed for _ in range(2)]
    net.eval()
    evaluated = [net(x).executed for _ in range(2)]
    assert not torch.equal(*drawn)
    assert torch.equal(*settled) and torch.equal(*evaluated)


def test_masks_are_hard_and_as_frequent_as_the_sigmoid_says() -> None:
    torch.manual_seed(1)
    for score in (0.0, 1.0, -2.0):
        draws = drawn_mask(torch.full((20_000,), score))
        assert set(draws.unique().tolist()) == {0.0, 1.0}
        assert draws.mean().item() == pytest.approx(1 / (1 + math.exp(-score)), abs=0.011)


def test_the_gradient_of_a_mask_is_that_of_the_sigmoid() -> None:
    s = torch.tensor([-2.0, 0.0, 0.5], requires_grad=True)
    mask = rounded_mask(s)
    mask.sum().backward()
    p = torch.sigmoid(s.detach())
    assert mask.tolist() == [0.0, 1.0, 1.0] and s.grad is not None
    torch.testing.assert_close(s.grad, p * (1 - p))


def test_the_noise_ends_with_four_fifths_of_the_training() -> None:
    net, batch, phase = _net(), batch_of(), _phase()
    phase.set_modes(net)
    said = []
    for progress in (0.0, 0.79, 0.81, 1.0):
        phase.loss(net, batch, progress)
        said.append(net.policy.noisy)
    assert said == [True, True, False, False]


def test_blocks_are_held_to_the_budget_at_first_and_free_after_a_third() -> None:
    assert bounds(0.7, 0.0, bound_share=0.33) == pytest.approx((0.7, 0.7))
    assert bounds(0.7, 0.165, bound_share=0.33) == pytest.approx((0.35, 0.85))
    for progress in (0.33, 0.5, 1.0):
        assert bounds(0.7, progress, bound_share=0.33) == pytest.approx((0.0, 1.0))


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.3, 0.9])
def test_blocks_that_all_meet_the_budget_cost_nothing_at_any_time(progress: float) -> None:
    shares, weights = torch.full((5,), 0.7), torch.tensor([0.1, 0.2, 0.3, 0.2, 0.2])
    held = bounds(0.7, progress, bound_share=0.33)
    assert budget_loss(shares, weights, budget=0.7, held=held).item() == pytest.approx(0, abs=1e-12)


def test_the_budget_loss_is_that_of_the_network_and_of_what_lies_outside_of_the_bounds() -> None:
    shares, weights = torch.tensor([0.2, 0.6, 0.95]), torch.tensor([0.5, 0.25, 0.25])
    # network: 0.4875 - 0.7; blocks: 0.3 - 0.2, nothing, 0.95 - 0.9
    expected = 0.2125**2 + (0.1**2 + 0.05**2) / 3
    found = budget_loss(shares, weights, budget=0.7, held=(0.3, 0.9))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_cross_entropy_plus_ten_times_the_budget_loss() -> None:
    net, batch, phase = _net(), batch_of(), _phase()
    phase.set_modes(net)
    terms = phase.loss(net, batch, 0.9)
    parts = terms.parts
    assert terms.total.item() == pytest.approx(
        (parts["loss"] + 10 * parts["budget_loss"]).item(), rel=1e-6
    )
    # The share is that of all residuals' MACs, by what the trace says.
    executed, costs = net(batch.x_nchw).executed, unit_macs(net)
    gated = [costs[unit.name] if unit.role == "block" else 0 for unit in net.units()]
    share = macs_per_image(executed, gated).mean().item() / sum(gated)
    assert 1 - parts["drop"].item() == pytest.approx(share, rel=1e-5)


def test_only_the_last_convolution_of_a_basic_block_has_a_budget_gradient() -> None:
    net = _net().train()
    shares_b = net(batch_of(4).x_nchw).terms["shares_nb"].mean(dim=0)
    (of_bias,) = torch.autograd.grad(shares_b[2], [net.policy.gates[2].local.bias])
    net.policy.noisy = False
    shares_b = net(batch_of(4).x_nchw).terms["shares_nb"].mean(dim=0)
    (settled,) = torch.autograd.grad(shares_b[2], [net.policy.gates[2].local.bias])
    assert of_bias > 0 and settled > 0
    with torch.no_grad():
        scores: list[Tensor] = []
        net.policy.gates[2].register_forward_hook(lambda _, __, out: scores.append(out))
        net(batch_of(4).x_nchw)
        p = torch.sigmoid(scores[0])
        # Block 2 doubles the channels and halves the side: 1 to 2 for its convolutions.
        expected = (p * (1 - p)).mean() * 2 / 3
    assert settled.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_defaults_are_those_of_the_authors_code() -> None:
    method, config = DynConv(), DynConvConfig()
    assert (config.budget, config.budget_weight) == (0.7, 10.0)
    assert (config.bound_share, config.noisy_share) == (0.33, 0.8)
    assert method.tags.reconstructed == () and method.variant(config) == "B=0.7"
    net = _net()
    (group,) = _phase().groups(net)
    assert group.lr_scale == 1 and set(group.parameters) == set(net.parameters())


def test_the_published_macs_are_those_of_our_counter_at_a_share_of_0_78() -> None:
    """The authors' 55.43 million: convolutions alone, those of the masks and their biases too."""
    net = _net(RESNET32)
    costs = unit_macs(net)
    by_role = {
        role: sum(costs[unit.name] for unit in net.units() if unit.role == role)
        for role in ("stem", "block", "shortcut", "head", "policy")
    }
    assert by_role["block"] == 68_419_584 and by_role["head"] == 640
    masks = sum(costs[f"gate{b}"] for b in range(15))
    biases = sum(s[1] * s[2] for s in RESNET32.layout.sums)  # theirs counts one for each score
    fixed = by_role["stem"] + by_role["shortcut"] + masks
    share = (55_428_526 - fixed - biases) / by_role["block"]
    assert share == pytest.approx(0.7817, abs=1e-4)
    # Masks of which that share runs: 58 % of the positions, which their neighbours nearly cover.
    draws = torch.Generator().manual_seed(0)
    sets = [
        (torch.rand(8, 1, *s[1:], generator=draws) < 0.583).float() for s in RESNET32.layout.sums
    ]
    with torch.no_grad():
        executed = net.eval().forward_with(batch_of(8, 32).x_nchw, sets).executed
    linear = by_role["head"] + by_role["policy"] - masks
    found = macs_per_image(executed, list(costs.values())).mean().item() - linear + biases
    assert found == pytest.approx(55_428_526, rel=5e-3)
    assert found / (dense_macs(RESNET32) - by_role["head"]) == pytest.approx(0.802, abs=5e-3)


@pytest.mark.parametrize("backbone", ["timm/vit_tiny_patch4_32@2", "timm/efficientnet_lite0"])
def test_what_has_no_positions_to_skip_is_refused_before_training(backbone: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(NotApplicable, match=r"needs maps|is none"):
        DynConv().build(Backbone(backbone, 10, (3, 32, 32)), DynConvConfig())


def test_training_moves_what_runs_to_the_budget() -> None:
    found = []
    for budget in (0.3, 0.5, 0.7):
        net = trained_on_digits(DynConv(), DynConvConfig(budget=budget), epochs=3)
        found.append(nflops(net))
        with torch.no_grad():
            shares_b = net.eval()(digit_images()).executed[:, block_columns(net.units())].mean(0)
        share = float((shares_b * net.policy.weights_b).sum())
        assert share == pytest.approx(budget, abs=0.1)
    assert found[0] + 0.05 < found[1] < found[2] - 0.05
