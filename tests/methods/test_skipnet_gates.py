"""SkipNet's gates: which blocks have one, what each reads, what they cost, how they decide."""

import pytest
import torch
from skipnet_nets import GATES, batch_of, skipnet, undecided
from torch import Tensor, nn

from bench.measure.cost import counted_macs, dense_macs, macs_per_image, unit_macs
from bench.networks.gated import block_columns
from bench.networks.trunk import Backbone

BLOCK_MACS = 4_718_592
over_gates = pytest.mark.parametrize("gate", GATES)


# The gates.


@over_gates
def test_the_first_block_always_runs_and_every_other_one_has_a_gate(gate: str) -> None:
    net = skipnet(gate=gate, gate_bias=-9.0).eval()
    executed = net(batch_of().x_nchw).executed[:, block_columns(net.units())]
    assert net.policy.gated == tuple(range(1, 6))
    assert executed[:, 0].min() == 1
    assert executed[:, 1:].max() == 0


@over_gates
def test_all_blocks_run_at_the_start_of_training(gate: str) -> None:
    for seed in range(5):
        assert skipnet(gate=gate).eval()(batch_of(32, seed).x_nchw).executed.min() == 1


@pytest.mark.parametrize(("depth", "gates"), [(38, 17), (74, 35), (110, 53)])
def test_there_is_one_gate_less_than_there_are_blocks(depth: int, gates: int) -> None:
    net = skipnet(Backbone(f"resnet{depth}", 10, (3, 32, 32)))
    assert sum(unit.role == "policy" for unit in net.units()) == gates
    # The authors' 21.6 k for depth 110 hold one gate more, behind the last block.
    if depth == 110:
        assert (
            sum(p.numel() for p in net.policy.parameters()) == 18 * 170 + 18 * 330 + 17 * 650 + 891
        )


@over_gates
@torch.no_grad()
def test_a_gate_reads_the_gated_output_of_the_block_before(gate: str) -> None:
    net = undecided(gate)
    read: dict[int, Tensor] = {}
    states: dict[int, Tensor] = {}
    original = net.policy.log_odds

    def spy(index: int, seen: Tensor, state: object) -> tuple[Tensor, object]:
        read[index] = seen.clone()
        return original(index, seen, state)  # type: ignore[arg-type]

    net.policy.log_odds = spy  # type: ignore[method-assign, assignment]
    for index, block in enumerate(net.blocks):

        def note(module: nn.Module, given: tuple[Tensor, ...], index: int = index) -> None:
            states[index] = given[0].clone()

        block.residual.register_forward_pre_hook(note)
    gates_ng = net(batch_of(32).x_nchw).terms["gates_ng"]
    for index in range(1, 6):
        torch.testing.assert_close(read[index], states[index])
    for index in range(1, 5):
        block, runs = net.blocks[index], gates_ng[:, index - 1] == 1
        assert 0 < int(runs.sum()) < 32
        # Without a ReLU where it was skipped, also behind the projection of a border.
        before, after = states[index], states[index + 1]
        torch.testing.assert_close(after[~runs], block.shortcut(before)[~runs])
        torch.testing.assert_close(after[runs], block(before)[runs])


@torch.no_grad()
def test_the_lstm_starts_at_zero_in_every_forward_and_runs_across_the_blocks() -> None:
    net, x = skipnet().eval(), batch_of().x_nchw
    gates = net.policy
    first, second = (net(x).terms["log_odds_ng"] for _ in range(2))
    assert torch.equal(first, second)
    h = net.blocks[0](net.trunk.stem(x))
    assert torch.equal(gates.gate_alone(1)(h), first[:, 0])
    alone = gates.gate_alone(2)(net.blocks[1](h))
    assert not torch.allclose(alone, first[:, 1], atol=1e-3)


@torch.no_grad()
def test_the_recurrent_gate_is_an_lstm_over_the_pooled_and_embedded_states() -> None:
    gates = skipnet().policy
    states = [batch_of(4, seed).x_nchw.repeat(1, 6, 1, 1)[:, :16] for seed in (1, 2)]
    lstm = nn.LSTM(10, 10)
    for name, weight in gates.cell.named_parameters():
        lstm.get_parameter(f"{name}_l0").copy_(weight)
    means = [h.mean(dim=(2, 3)) for h in states]
    embedded = [gates.embed[str(b)](mean) for b, mean in zip((1, 2), means, strict=True)]
    hidden, _ = lstm(torch.stack(embedded))
    z_n, state = gates.log_odds(1, states[0], None)
    torch.testing.assert_close(z_n, gates.last(hidden[0]).flatten())
    torch.testing.assert_close(gates.log_odds(2, states[1], state)[0], gates.last(hidden[1])[:, 0])


def test_a_feed_forward_gate_is_the_softmax_over_skip_and_run() -> None:
    net = skipnet(gate="ff2").eval()
    h = torch.rand(4, 16, 16, 16)
    gate = net.policy.gate_alone(1)
    logits = gate.last(gate.features(h).mean(dim=(2, 3)))
    torch.testing.assert_close(torch.sigmoid(gate(h)), logits.softmax(dim=1)[:, 1])


@over_gates
def test_the_smallest_images_have_gates_too(gate: str) -> None:
    net = skipnet(Backbone("resnet8", 3, (1, 4, 4)), gate=gate)
    assert net.eval()(torch.rand(2, 1, 4, 4)).logits.shape == (2, 3)
    assert len(unit_macs(net)) == 5 + 2


# What gates cost.


@pytest.mark.parametrize(
    ("gate", "depth", "of_a_block", "of_the_network"),
    [("ff1", 38, (0.156, 0.157), 0.15), ("ff2", 110, (0.125, 0.1255), 0.12)],
)
def test_feed_forward_gates_cost_an_eighth_or_more_of_a_block(
    gate: str, depth: int, of_a_block: tuple[float, float], of_the_network: float
) -> None:
    costs = _costs(gate, depth)
    assert all(of_a_block[0] <= cost / BLOCK_MACS <= of_a_block[1] for cost in costs)
    total = sum(costs) / dense_macs(Backbone(f"resnet{depth}", 10, (3, 32, 32)))
    assert total == pytest.approx(of_the_network, abs=0.005)


def test_recurrent_gates_cost_next_to_nothing() -> None:
    costs = _costs("rnn", 110)
    assert costs[0] == 16 * 10 + 2 * 10 * 40 + 10
    assert all(0.0002 < cost / BLOCK_MACS < 0.00031 for cost in costs)
    assert sum(costs) / 252_887_680 == pytest.approx(0.00025, abs=1e-5)


def _costs(gate: str, depth: int) -> list[int]:
    net = skipnet(Backbone(f"resnet{depth}", 10, (3, 32, 32)), gate=gate)
    macs = unit_macs(net)
    return [macs[unit.name] for unit in net.units() if unit.role == "policy"]


# Deciding.


@over_gates
@torch.no_grad()
def test_all_gates_skip_as_they_mask_and_are_paid_for_behind_skipped_blocks(gate: str) -> None:
    net, x = undecided(gate), batch_of(33).x_nchw
    costs = list(unit_macs(net).values())
    for part in (x, x[:1]):
        masked, skipping = net(part), net.execute(part)
        assert torch.equal(masked.executed, skipping.executed)
        torch.testing.assert_close(masked.logits, skipping.logits, atol=1e-4, rtol=0)
        spent = counted_macs(lambda part=part: net.execute(part))  # type: ignore[misc]
        assert spent == macs_per_image(masked.executed, costs).sum()
    policy = [column for column, unit in enumerate(net.units()) if unit.role == "policy"]
    assert net(x).executed[:, policy].min() == 1


@over_gates
@torch.no_grad()
def test_evaluation_runs_a_block_if_p_is_at_least_a_half_and_draws_nothing(gate: str) -> None:
    net, x = undecided(gate), batch_of(48).x_nchw
    before = torch.get_rng_state()
    with net.policy.drawing():
        outputs = [net(x), net(x), net.execute(x)]
    assert torch.equal(before, torch.get_rng_state())
    expected = (torch.sigmoid(outputs[0].terms["log_odds_ng"]) >= 0.5).float()
    assert 0.2 < expected.mean() < 0.8
    for output in outputs:
        assert torch.equal(output.terms["gates_ng"], expected)


@torch.no_grad()
def test_the_computation_percentage_of_the_authors_is_the_mean_over_all_blocks() -> None:
    net = undecided("rnn")
    executed_nb = net(batch_of(64).x_nchw).executed[:, block_columns(net.units())]
    rates = executed_nb[:, list(net.policy.gated)].mean(dim=0)
    percentage = (1 + rates.sum()) / len(net.blocks)
    assert percentage == pytest.approx(executed_nb.mean().item())
    assert 1 / 6 < percentage < 1
