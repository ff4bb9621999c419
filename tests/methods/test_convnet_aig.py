"""ConvNet-AIG against its conformance points: what a gate reads, its gradient, the target loss."""

import pytest
import torch
from method_nets import BACKBONE, batch_of
from small_runs import nflops, trained_on_digits
from torch import Tensor

from bench.errors import ConfigError
from bench.measure.cost import unit_macs
from bench.method import OptimizerSpec
from bench.networks.execution import GateResidual
from bench.networks.gated import GatedResNet
from bench.networks.trunk import Backbone
from bench.plugins import method_config
from methods.convnet_aig import (
    AigConfig,
    ConvNetAig,
    Gate,
    TargetRates,
    chosen_gate,
    sampled_gate,
    target_gap,
)


def _net(config: AigConfig | None = None, backbone: Backbone = BACKBONE) -> GatedResNet:
    torch.manual_seed(0)
    net = ConvNetAig().build(backbone, config or AigConfig())
    return net


def _pull(gate: Gate, *, skip: float, execute: float) -> None:
    gate[3].weight.data.zero_()
    gate[3].bias.data.copy_(torch.tensor([skip, execute]))


def _phase(config: AigConfig) -> TargetRates:
    return TargetRates("gated", config, epochs=1, batch_size=32, optimizer=OptimizerSpec())


def test_all_blocks_have_a_gate_first_and_last_and_borders_included() -> None:
    assert _net().policy.gated == tuple(range(6))


def test_each_gate_reads_the_pooled_input_of_its_own_block() -> None:
    net = _net().eval()
    widths = [gate[0].in_features for gate in net.policy.gates.values()]
    assert widths == [16, 16, 16, 32, 32, 64]
    inputs: list[Tensor] = []
    seen: list[Tensor] = []
    for block in net.blocks:
        block.residual.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
    for gate in net.policy.gates.values():
        gate.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    net(batch_of(32).x_nchw)
    assert len(inputs) == len(seen) == 6
    for h_nchw, pooled_nc in zip(inputs, seen, strict=True):
        torch.testing.assert_close(pooled_nc, h_nchw.mean(dim=(2, 3)))


def test_a_gate_sees_what_the_gates_before_it_left_undone() -> None:
    net = _net().eval()
    seen: list[Tensor] = []
    gates = net.policy.gates
    gates["1"].register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    for skip in (0.0, 5.0):
        _pull(gates["0"], skip=skip, execute=2.0)
        net(batch_of(32).x_nchw)
    assert not torch.allclose(*seen)


def test_index_1_means_execute() -> None:
    assert chosen_gate(torch.tensor([[0.1, 2.0], [2.0, 0.1]])).tolist() == [1, 0]
    net = _net().eval()
    _pull(net.policy.gates["2"], skip=3.0, execute=1.0)
    executed = net(batch_of(32).x_nchw).executed[:, 1:7]
    assert executed.mean(dim=0).tolist() == [1, 1, 0, 1, 1, 1]


def test_at_the_start_87_percent_of_the_draws_open_a_gate() -> None:
    net = _net()
    last = net.policy.gates["0"][3]
    assert last.bias.tolist() == pytest.approx([0.1, 2.0])
    weights = torch.cat([gate[3].weight.flatten() for gate in net.policy.gates.values()])
    assert weights.std().item() == pytest.approx(0.001, rel=0.2)
    torch.manual_seed(0)
    draws = sampled_gate(last.bias.detach().expand(20_000, 2))
    expected = torch.sigmoid(torch.tensor(1.9)).item()
    assert draws.mean().item() == pytest.approx(expected, abs=0.01)
    assert expected == pytest.approx(0.87, abs=1e-3)


def test_draws_are_hard_and_as_frequent_as_the_softmax_says() -> None:
    torch.manual_seed(1)
    for logits in ([0.0, 0.0], [1.0, -0.5], [-2.0, 0.3]):
        row = torch.tensor(logits)
        draws = sampled_gate(row.expand(20_000, 2))
        assert set(draws.unique().tolist()) == {0.0, 1.0}
        assert draws.mean().item() == pytest.approx(row.softmax(dim=0)[1].item(), abs=0.011)


def test_the_gradient_is_that_of_the_softmax_of_the_noisy_logits() -> None:
    logits = torch.tensor([[0.3, -0.2], [1.0, 2.0]], requires_grad=True)
    torch.manual_seed(5)
    sampled_gate(logits).sum().backward()
    torch.manual_seed(5)
    noise = -torch.empty(2, 2).exponential_().log()
    p = (logits.detach() + noise).softmax(dim=1)[:, 1]
    torch.testing.assert_close(logits.grad[:, 1], p * (1 - p))
    torch.testing.assert_close(logits.grad[:, 0], -p * (1 - p))


def test_training_draws_and_evaluation_takes_the_larger_logit() -> None:
    net, x = _net(), batch_of(64).x_nchw
    net.train()
    drawn = [net(x).executed for _ in range(2)]
    net.eval()
    chosen = [net(x).executed for _ in range(2)]
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(chosen[0], chosen[1])
    assert chosen[0].min() == 1  # 2 is larger than 0.1, and nothing has been learnt


def test_the_target_loss_is_the_mean_square_of_target_minus_the_rate_of_the_batch() -> None:
    gates = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    # rates 0.75, 1, 0.25 against 0.6: 0.0225, 0.16, 0.1225
    gap = target_gap(gates, torch.tensor([0.6, 0.6, 0.6]), num_blocks=3)
    assert gap.item() == pytest.approx(0.305 / 3)
    # a fourth block without a gate meets its target 1, and still counts among the L blocks
    mixed = target_gap(gates, torch.tensor([0.75, 0.5, 0.25]), num_blocks=4)
    assert mixed.item() == pytest.approx(0.25 / 4)


def test_the_target_pushes_a_rare_block_up_and_a_frequent_one_down() -> None:
    gates = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    target_gap(gates, torch.tensor([0.6, 0.6]), num_blocks=2).backward()
    # d/dz = 2 (rate - t) / N / L
    assert gates.grad.flatten().tolist() == pytest.approx([0.2, -0.3, 0.2, -0.3])


def test_only_the_rate_of_the_batch_counts_not_who_runs_what() -> None:
    gates = (torch.rand(40, 5, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    targets = torch.tensor([0.2, 0.4, 0.6, 0.8, 0.9])
    shuffled = torch.stack([column[torch.randperm(40)] for column in gates.unbind(1)], dim=1)
    torch.testing.assert_close(
        target_gap(gates, targets, num_blocks=5), target_gap(shuffled, targets, num_blocks=5)
    )


def test_the_loss_is_cross_entropy_plus_twice_the_gap() -> None:
    terms = _phase(AigConfig()).loss(_net().train(), batch_of(32), 0.0)
    parts = terms.parts
    assert AigConfig().target_weight == 2
    assert terms.total.item() == pytest.approx((parts["loss"] + 2 * parts["target_gap"]).item())
    assert parts["target_gap"].item() > 0


def test_the_target_loss_alone_teaches_the_gates_and_no_block_behind_them() -> None:
    net = _net().train()
    terms = _phase(AigConfig()).loss(net, batch_of(32), 0.0)
    terms.parts["target_gap"].backward()
    for gate in net.policy.gates.values():
        assert gate[3].bias.grad is not None and bool(gate[3].bias.grad.all())
    last = net.blocks[-1].residual
    assert all(parameter.grad is None for parameter in last.parameters())


def test_a_skipped_block_is_its_rectified_shortcut() -> None:
    net = _net(backbone=Backbone("resnet14", 10, (3, 16, 16), "B")).eval()
    assert isinstance(net.merge, GateResidual)
    _pull(net.policy.gates["2"], skip=3.0, execute=1.0)
    outputs: list[Tensor] = []
    inputs: list[Tensor] = []
    net.blocks[2].shortcut.register_forward_hook(lambda _, args, out: outputs.append(out))
    net.blocks[3].residual.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    net(batch_of(32).x_nchw)
    assert outputs[0].min() < 0
    assert torch.equal(inputs[0], outputs[0].relu())


def test_a_block_with_target_1_has_no_gate_and_costs_none() -> None:
    config = AigConfig(targets=(1, 1, 0.8, 1, 0.5, 0.2))
    net = _net(config)
    assert net.policy.gated == (2, 4, 5)
    assert net.policy.targets_g.tolist() == pytest.approx([0.8, 0.5, 0.2])
    assert [unit.name for unit in net.units() if unit.role == "policy"] == [
        "gate2",
        "gate4",
        "gate5",
    ]
    terms = _phase(config).loss(net.train(), batch_of(32), 0.0)
    assert torch.isfinite(terms.total)
    executed = net.eval()(batch_of(32).x_nchw).executed
    assert bool((executed[:, [1, 2, 4]] == 1).all())


def test_targets_must_fit_the_network_and_leave_a_gate() -> None:
    with pytest.raises(ConfigError, match="has 2 values, the network has 6 blocks"):
        _net(AigConfig(targets=(0.5, 0.5)))
    for wrong in ([1.0, 1.0], [0.5, 1.5], [-0.1, 0.5]):
        with pytest.raises(ConfigError, match=r"convnet_aig\.targets"):
            method_config(ConvNetAig, {"targets": wrong})
    config = method_config(ConvNetAig, {"targets": [1, 0.4, 0.7]})
    again = method_config(ConvNetAig, config.model_dump(mode="json"))
    assert again == config
    assert ConvNetAig().variant(config) == "t=0.7 on average"
    assert ConvNetAig().variant(AigConfig(target=0.45)) == "t=0.45"


@pytest.mark.parametrize(
    ("name", "macs", "share", "parameters"),
    [("resnet32", 8_672, 1.26e-4, 9_422), ("resnet110", 33_216, 1.31e-4, 35_916)],
)
def test_all_gates_together_cost_a_ten_thousandth_of_the_network(
    name: str, macs: int, share: float, parameters: int
) -> None:
    net = _net(backbone=Backbone(name, 10, (3, 32, 32)))
    costs = unit_macs(net)
    gates = sum(cost for unit, cost in costs.items() if unit.startswith("gate"))
    assert gates == macs
    assert gates / (sum(costs.values()) - gates) == pytest.approx(share, rel=0.01)
    assert sum(p.numel() for p in net.policy.parameters()) == parameters


def test_lower_targets_give_cheaper_networks() -> None:
    found = []
    for target in (0.2, 0.5, 0.8):
        net = trained_on_digits(ConvNetAig(), AigConfig(target=target), epochs=3)
        found.append(nflops(net))
    assert found[0] + 0.1 < found[1] < found[2] - 0.05
