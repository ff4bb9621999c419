"""Random skipping: draws from an exact hash of the image, rates, independence, both controls."""

import struct

import pytest
import torch
from small_runs import (
    dense_weights,
    digit_images,
    digits,
    digits_backbone,
    evaluated,
    nflops,
    trained_on_digits,
)
from torch import Tensor

from baselines.random_skip import (
    RandomGates,
    RandomSkip,
    RandomSkipConfig,
    RandomSkipTest,
    RandomSkipTestConfig,
    Spared,
)
from bench.data.augment import normalise
from bench.errors import ConfigError, NotApplicable
from bench.measure.cost import dense_macs, unit_macs
from bench.method import Budget, DynamicNet, OptimizerSpec, Source, SourcePoint
from bench.networks.gated import GatedResNet

WORD = 1 << 64


def _all_images() -> Tensor:
    info = digits().info
    pixels = torch.cat([digits().train.images_nhwc, digits().test.images_nhwc])
    return normalise(pixels, mean=info.mean, std=info.std)


def _gates(x_nchw: Tensor, *, keep: float = 0.6, seed: int = 0, spared: Spared = "none") -> Tensor:
    """Return gates (N, 54): of the blocks of a ResNet-110."""
    policy = RandomGates(digits_backbone("resnet110"), keep=keep, spared=spared, seed=seed).eval()
    return policy.begin(x_nchw, x_nchw).gates_nb


def _net(name: str = "resnet14", **settings: object) -> GatedResNet:
    torch.manual_seed(0)
    net = RandomSkip().build(digits_backbone(name), RandomSkipConfig(**settings))
    return net.eval()


def _dense_source() -> Source:
    net = GatedResNet(digits_backbone("resnet14", dense_weights())).eval()
    rates = {f"block{b}": 1.0 for b in range(6)}
    return Source("resnet", [SourcePoint("", net, rates, 1.0)])


def _derived(**settings: object) -> tuple[RandomSkipTest, GatedResNet, RandomSkipTestConfig]:
    method, config = RandomSkipTest(), RandomSkipTestConfig(**settings)
    net = method.derive(_dense_source(), digits_backbone("resnet14"), config)
    return method, net.eval(), config


@pytest.mark.parametrize("keep", [0.9, 0.6, 0.25])
def test_blocks_run_as_often_as_asked_over_real_images(keep: float) -> None:
    gates = _gates(_all_images(), keep=keep)
    assert gates.shape == (1797, 54)
    assert gates.mean().item() == pytest.approx(keep, abs=0.006)
    sd = (keep * (1 - keep) / 1797) ** 0.5
    assert (gates.mean(dim=0) - keep).abs().max().item() < 4.5 * sd
    # How many of the 54 blocks an image runs is binomial, so images differ as draws make them.
    assert gates.sum(dim=1).var().item() == pytest.approx(54 * keep * (1 - keep), rel=0.15)


def test_blocks_decide_independently_of_each_other() -> None:
    gates = _gates(_all_images())
    correlation = torch.corrcoef(gates.T) - torch.eye(54)
    assert correlation.abs().max().item() < 5 / 1797**0.5
    assert correlation.square().mean().sqrt().item() == pytest.approx(1797**-0.5, rel=0.1)


def test_decisions_know_nothing_of_what_the_image_shows() -> None:
    x = _all_images()
    labels = torch.cat([digits().train.labels_n, digits().test.labels_n]).float()
    ink = x.mean(dim=(1, 2, 3))
    for known in (labels, ink):
        table = torch.cat([known[None], _gates(x).T])
        assert torch.corrcoef(table)[0, 1:].abs().max().item() < 4 / 1797**0.5


def test_the_smallest_change_of_one_pixel_draws_everything_anew() -> None:
    x = _all_images()[:400]
    changed = x.clone()
    bits = changed.view(torch.int32)
    bits[torch.arange(400), 0, torch.arange(400) % 8, torch.arange(400) // 8 % 8] ^= 1
    agree = (_gates(x) == _gates(changed)).float().mean().item()
    assert agree == pytest.approx(0.6**2 + 0.4**2, abs=0.02)
    # Moved pixels are another image, though their sum is the same.
    agree = (_gates(x) == _gates(x.flip(3))).float().mean().item()
    assert agree == pytest.approx(0.52, abs=0.02)


def test_the_seed_draws_everything_anew() -> None:
    x = _all_images()[:400]
    agree = (_gates(x) == _gates(x, seed=1)).float().mean().item()
    assert agree == pytest.approx(0.52, abs=0.02)


def test_an_image_runs_with_a_larger_keep_all_that_it_ran_with_fewer() -> None:
    x = _all_images()[:100]
    few, more = _gates(x, keep=0.5), _gates(x, keep=0.75)
    assert bool((more >= few).all())
    assert bool((_gates(x, keep=1.0) == 1).all())
    assert bool((_gates(x, keep=0.0) == 0).all())


def _scrambled(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB % WORD
    return z ^ z >> 31


def test_draws_are_those_of_exact_arithmetic_on_whole_numbers() -> None:
    x, golden, seed = digit_images()[:5], 0x9E3779B97F4A7C15, 3
    for image, row in zip(x, _gates(x, seed=seed), strict=True):
        total = 0
        for place, value in enumerate(image.flatten().tolist(), start=1):
            (bits,) = struct.unpack("<i", struct.pack("<f", value))
            total += bits * (_scrambled(place * golden % WORD) | 1)
        for block in range(54):
            key = _scrambled((block + (seed + 1) * golden) % WORD)
            coin = _scrambled((total + key) % WORD) >> 40
            assert row[block].item() == float(coin / (1 << 24) < 0.6)


def test_draws_do_not_depend_on_the_batch_or_on_the_layout_in_memory() -> None:
    x = _all_images()[:60]
    whole = _gates(x)
    assert torch.equal(_gates(x.contiguous()), whole)
    assert torch.equal(_gates(x.contiguous(memory_format=torch.channels_last)), whole)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert torch.equal(_gates(x[order]), whole[order])
    for size in (1, 7):
        assert torch.equal(torch.cat([_gates(part) for part in x.split(size)]), whole)


@pytest.mark.parametrize(("spared", "block"), [("first", 0), ("last", 53), ("none", None)])
def test_a_spared_block_always_runs(spared: Spared, block: int | None) -> None:
    gates = _gates(_all_images()[:50], spared=spared)
    always = [b for b in range(54) if bool((gates[:, b] == 1).all())]
    assert always == ([] if block is None else [block])


def test_training_draws_anew_each_time() -> None:
    net, x = _net("resnet110").train(), digit_images()[:64]
    with torch.no_grad():
        first, second = net(x).executed, net(x).executed
    assert not torch.equal(first, second)
    columns = [column for column, unit in enumerate(net.units()) if not unit.always_on]
    assert len(columns) == 53
    assert first[:, columns].mean().item() == pytest.approx(0.6, abs=0.03)


@torch.no_grad()
def test_execution_equals_masking() -> None:
    net, x = _net(), digit_images()
    masked, skipping = net(x), net.execute(x)
    assert torch.equal(masked.executed, skipping.executed)
    torch.testing.assert_close(skipping.logits, masked.logits, atol=1e-4, rtol=0)
    assert len(masked.executed.unique(dim=0)) > 20


def test_drawing_costs_no_macs_and_the_cost_falls_with_what_is_kept() -> None:
    assert not any(unit.role == "policy" for unit in _net().units())
    found = []
    for keep in (0.9, 0.6, 0.3):
        net = _net(keep=keep)
        gated = sum(unit_macs(net)[f"block{b}"] for b in range(1, 6)) / dense_macs(net.backbone)
        assert nflops(net) == pytest.approx(1 - (1 - keep) * gated, abs=0.03)
        found.append(nflops(net))
    assert found == sorted(found, reverse=True)


def test_its_state_dict_is_that_of_the_dense_network() -> None:
    net = _net()
    assert set(net.state_dict()) == {f"trunk.{key}" for key in net.trunk.state_dict()}


def test_the_published_schedule_is_that_of_skipnets_supervised_training() -> None:
    method, config = RandomSkip(), RandomSkipConfig()
    budget = Budget(
        recipe="paper",
        epochs=method.published_epochs(config),
        batch_size=32,
        optimizer=OptimizerSpec(),
        published=True,
    )
    (phase,) = method.phases(config, budget)
    assert (phase.epochs, phase.batch_size) == (164, 128)
    assert method.variant(RandomSkipConfig(keep=0.55)) == "keep=0.55"


def test_the_test_time_control_has_one_point_per_probability_on_one_trunk() -> None:
    method, net, config = _derived()
    points = method.operating_points(net, config)
    assert [point.name for point in points] == ["keep=0.9", "keep=0.75", "keep=0.5"]
    costs = []
    for point in points:
        assert isinstance(point.net, GatedResNet)
        assert point.net.trunk is net.trunk and not point.net.training
        costs.append(nflops(point.net))
    assert costs[0] > costs[1] > costs[2]
    assert method.phases(config, _budget()) == []
    assert (method.source_role, method.trains) == ("dense", False)


def _budget() -> Budget:
    return Budget(recipe="test", epochs=4, batch_size=32, optimizer=OptimizerSpec())


@torch.no_grad()
def test_the_test_time_control_is_its_source_where_every_coin_is_kept() -> None:
    method, net, config = _derived(keeps=(1.0, 0.5))
    x = digit_images()
    dense = _dense_source().points[0].net
    everything, half = method.operating_points(net, config)
    assert torch.equal(everything.net(x).logits, dense(x).logits)
    assert torch.equal(half.net.forward_all_on(x).logits, dense(x).logits)
    masked, skipping = half.net(x), half.net.execute(x)
    assert torch.equal(masked.executed, skipping.executed)
    torch.testing.assert_close(skipping.logits, masked.logits, atol=1e-4, rtol=0)


def test_the_test_time_control_refuses_a_source_without_blocks() -> None:
    class Strange(DynamicNet):
        def units(self) -> list:  # type: ignore[type-arg]
            return []

        def forward(self, x_nchw: Tensor) -> None:  # type: ignore[override]
            raise AssertionError

        execute = forward  # type: ignore[assignment]

    source = Source("strange", [SourcePoint("", Strange(), {}, 1.0)])
    with pytest.raises(NotApplicable, match="'strange' has no whole trunk inside"):
        RandomSkipTest().derive(source, digits_backbone("resnet14"), RandomSkipTestConfig())
    with pytest.raises(ConfigError, match="made from a finished run"):
        RandomSkipTest().build(digits_backbone("resnet14"), RandomSkipTestConfig())


def test_training_with_draws_is_worth_a_lot_at_test_time() -> None:
    method, net, config = _derived(keeps=(1.0, 0.5))
    dense, broken = (evaluated(point.net) for point in method.operating_points(net, config))
    trained = trained_on_digits(RandomSkip(), RandomSkipConfig(keep=0.5), epochs=3)
    assert dense.accuracy > 0.9
    assert broken.accuracy < dense.accuracy - 0.2
    assert evaluated(trained).accuracy > broken.accuracy + 0.1
    assert torch.equal(evaluated(trained).executed_nu, broken.executed_nu)
