"""Stochastic depth: survival by hand, who loses a block together, a plain ResNet at test time."""

import pytest
import torch
from small_runs import evaluated, nflops, trained_on_digits

from baselines.stochastic_depth import (
    RandomDepth,
    StochasticDepth,
    StochasticDepthConfig,
    drawn_gates,
    survival,
)
from bench.data.augment import Batch
from bench.method import Budget, OptimizerSpec
from bench.networks.gated import GatedResNet
from bench.networks.trunk import Backbone

BACKBONE = Backbone("resnet14", 10, (3, 16, 16), "B")


def _net() -> GatedResNet:
    torch.manual_seed(0)
    net = StochasticDepth().build(BACKBONE, StochasticDepthConfig())
    return net


def _batch(count: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, 16, 16, generator=generator)
    return Batch(x, torch.arange(count) % 10, torch.arange(count))


def _phase(**settings: object) -> RandomDepth:
    config = StochasticDepthConfig(**settings)
    return RandomDepth("random depth", config, epochs=1, batch_size=16, optimizer=OptimizerSpec())


def test_survival_falls_in_equal_steps_to_one_half() -> None:
    assert survival(4, last=0.5).tolist() == pytest.approx([0.875, 0.75, 0.625, 0.5])
    assert survival(54, last=0.5)[[0, 53]].tolist() == pytest.approx([1 - 0.5 / 54, 0.5])
    # Three quarters of the blocks survive on average, hence the paper's 25 % of time saved.
    assert survival(54, last=0.5).mean().item() == pytest.approx(0.75, abs=0.005)


def test_a_surviving_block_is_scaled_so_that_its_mean_is_one() -> None:
    torch.manual_seed(0)
    p_b = survival(6, last=0.5)
    gates = drawn_gates(p_b, 40_000, drawn="per image")
    for column, p in zip(gates.unbind(1), p_b, strict=True):
        assert column.unique().tolist() == pytest.approx([0.0, 1 / p.item()])
        assert (column > 0).float().mean().item() == pytest.approx(p.item(), abs=0.015)
        assert column.mean().item() == pytest.approx(1, abs=0.03)


def test_images_lose_blocks_together_or_each_its_own() -> None:
    torch.manual_seed(0)
    p_b = survival(6, last=0.5)
    together = [drawn_gates(p_b, 32, drawn="per mini-batch") for _ in range(20)]
    assert all(len(gates.unique(dim=0)) == 1 for gates in together)
    assert len({tuple(gates[0].tolist()) for gates in together}) > 3
    assert len(drawn_gates(p_b, 32, drawn="per image").unique(dim=0)) > 3


def test_a_block_dropped_for_the_whole_batch_is_its_shortcut_and_learns_nothing() -> None:
    net, batch, phase = _net().train(), _batch(), _phase(last_survival=0.1)
    for seed in range(50):
        torch.manual_seed(seed)
        gates = drawn_gates(survival(6, last=0.1), len(batch), drawn="per mini-batch")
        if gates[0, 5] == 0 and gates[0, 0] > 0:
            break
    torch.manual_seed(seed)
    terms = phase.loss(net, batch, 0.0)
    terms.total.backward()
    assert terms.parts["dropped"].item() == pytest.approx((gates == 0).float().mean().item())
    dropped, kept = net.blocks[5].residual, net.blocks[0].residual
    assert all(p.grad is None or not p.grad.any() for p in dropped.parameters())
    assert all(p.grad is not None and p.grad.any() for p in kept.parameters())
    h = net.trunk.stem(batch.x_nchw)
    for block, gate in zip(net.blocks, gates[0], strict=True):
        h = (block.shortcut(h) + gate * block.residual(h)).relu()
    torch.testing.assert_close(terms.logits, net.trunk.head(h))


def test_survival_of_one_is_the_dense_network_in_training_too() -> None:
    net, batch = _net().train(), _batch()
    terms = _phase(last_survival=1.0).loss(net, batch, 0.0)
    assert torch.equal(terms.logits, net.trunk(batch.x_nchw))  # type: ignore[arg-type]


def test_at_test_time_it_is_the_plain_resnet_bit_for_bit() -> None:
    net, x = _net().eval(), _batch().x_nchw
    output = net(x)
    assert torch.equal(output.logits, net.trunk(x))
    assert torch.equal(net.execute(x).logits, output.logits)
    assert output.executed.min() == 1
    assert all(unit.always_on for unit in net.units())
    assert not any(unit.role == "policy" for unit in net.units())
    assert set(net.state_dict()) == {f"trunk.{key}" for key in net.trunk.state_dict()}


def test_the_published_schedule_is_500_epochs() -> None:
    method, config = StochasticDepth(), StochasticDepthConfig()
    budget = Budget(
        recipe="paper",
        epochs=method.published_epochs(config),
        batch_size=32,
        optimizer=OptimizerSpec(),
        published=True,
    )
    (phase,) = method.phases(config, budget)
    assert (phase.epochs, phase.batch_size) == (500, 128)
    assert [500 * milestone for milestone in phase.optimizer.milestones] == [250, 375]
    assert (phase.optimizer.lr, phase.optimizer.weight_decay) == (0.1, 1e-4)


def test_variants_are_named_after_what_sets_them_apart() -> None:
    method = StochasticDepth()
    assert method.variant(StochasticDepthConfig()) == "p_L=0.5"
    config = StochasticDepthConfig(last_survival=0.8, drawn="per image")
    assert method.variant(config) == "p_L=0.8 per image"


@pytest.mark.parametrize("drawn", ["per mini-batch", "per image"])
def test_it_learns_and_costs_what_the_dense_network_costs(drawn: str) -> None:
    config = StochasticDepthConfig(drawn=drawn)  # type: ignore[arg-type]
    net = trained_on_digits(StochasticDepth(), config, epochs=2, backbone="resnet8")
    assert nflops(net) == 1
    assert evaluated(net).accuracy > 0.5
