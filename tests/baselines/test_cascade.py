"""A cascade of two static networks: who pays for what, and who answers."""

from __future__ import annotations

import pytest
import torch

from baselines.cascade import Cascade, CascadeConfig, CascadeNet, smaller_than
from bench.data.augment import Batch
from bench.errors import NotApplicable
from bench.measure.cost import dense_macs, macs_per_image, unit_macs
from bench.method import Budget, OptimizerSpec
from bench.networks.trunk import Backbone

BACKBONE = Backbone("resnet20", 10, (3, 16, 16))


def _net(**settings: object) -> CascadeNet:
    torch.manual_seed(0)
    net = Cascade().build(BACKBONE, CascadeConfig(**settings))
    return net.eval()


def _batch(count: int = 64, seed: int = 1) -> Batch:
    index_n = torch.arange(count)
    x_nchw = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return Batch(x_nchw, index_n % 10, index_n)


def _set(net: CascadeNet, threshold: float) -> None:
    net.rule.thresholds_pe.fill_(threshold)


def _macs(net: CascadeNet, executed_nu: torch.Tensor) -> torch.Tensor:
    return macs_per_image(executed_nu, list(unit_macs(net).values()))


@torch.no_grad()
def test_below_every_confidence_the_small_network_answers_at_its_own_cost() -> None:
    net, x_nchw = _net(), _batch().x_nchw
    _set(net, 0.0)
    out = net.execute(x_nchw)
    assert torch.equal(out.logits, net.small(x_nchw))
    small = Backbone("resnet8", 10, (3, 16, 16))
    assert set(_macs(net, out.executed).tolist()) == {dense_macs(small)}


@torch.no_grad()
@pytest.mark.parametrize("combine", ["last", "mean"])
def test_above_every_confidence_all_images_pay_for_both_networks(combine: str) -> None:
    net, x_nchw = _net(combine=combine), _batch().x_nchw
    _set(net, 2.0)
    out = net.execute(x_nchw)
    both = dense_macs(BACKBONE) + dense_macs(Backbone("resnet8", 10, (3, 16, 16)))
    assert set(_macs(net, out.executed).tolist()) == {both}
    small_nk, large_nk = net.small(x_nchw), net.trunk(x_nchw)
    if combine == "last":
        assert torch.equal(out.logits, large_nk)
    else:
        expected = (small_nk.softmax(dim=1) + large_nk.softmax(dim=1)) / 2
        torch.testing.assert_close(out.logits.softmax(dim=1), expected)


@torch.no_grad()
def test_only_deferred_images_reach_the_large_network_and_others_keep_the_small_answer() -> None:
    net, x_nchw = _net(), _batch().x_nchw
    _set(net, float(net.small(x_nchw).softmax(dim=1).amax(dim=1).median()))
    seen: list[int] = []
    net.trunk.stem.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    out = net.execute(x_nchw)
    stays_n = out.executed[:, 1] == 0
    assert 0 < int(stays_n.sum()) < 64
    assert seen == [int((~stays_n).sum())]
    torch.testing.assert_close(out.logits[stays_n], net.small(x_nchw)[stays_n])
    torch.testing.assert_close(out.logits[~stays_n], net.trunk(x_nchw)[~stays_n])


@torch.no_grad()
def test_the_mean_of_two_equal_networks_changes_no_answer() -> None:
    net, x_nchw = _net(small="resnet20", combine="mean"), _batch().x_nchw
    net.trunk.load_state_dict(net.small.state_dict())
    _set(net, 2.0)
    torch.testing.assert_close(net(x_nchw).logits.softmax(dim=1), net.small(x_nchw).softmax(dim=1))


@pytest.mark.parametrize("confidence", ["probability", "entropy"])
def test_held_out_images_are_deferred_in_the_shares_asked_for(confidence: str) -> None:
    shares = (0.1, 0.25, 0.5)
    config = CascadeConfig(deferred=shares, confidence=confidence)
    net = Cascade().build(BACKBONE, config)
    held_out = [_batch(100, 1), _batch(100, 2)]
    Cascade().calibrate(net.eval(), config, held_out)
    points = {point.name: point.net for point in Cascade().operating_points(net, config)}
    assert list(points) == ["r=0.25", "r=0.1", "r=0.5"]
    for share in shares:
        with torch.no_grad():
            outs = [points[f"r={share:g}"].execute(batch.x_nchw) for batch in held_out]
        deferred_n = torch.cat([out.executed[:, 1] for out in outs])
        assert deferred_n.mean().item() == pytest.approx(share)


def test_each_network_learns_from_its_own_loss_alone() -> None:
    net, batch = _net().train(), _batch()
    optimizer = OptimizerSpec()
    budget = Budget(recipe="test", epochs=5, batch_size=16, optimizer=optimizer)
    (phase,) = Cascade().phases(CascadeConfig(), budget)
    assert phase.epochs == 5
    terms = phase.loss(net, batch, 0.5)
    terms.parts["loss"].backward()
    assert all(p.grad is not None for p in net.trunk.parameters())
    assert all(p.grad is None for p in net.small.parameters())


@pytest.mark.parametrize(
    ("large", "small"),
    [
        ("resnet20", "resnet8"),
        ("resnet32", "resnet14"),
        ("resnet110", "resnet32"),
    ],
)
def test_the_small_network_has_about_three_tenths_of_the_blocks(large: str, small: str) -> None:
    assert smaller_than(Backbone(large, 10, (3, 32, 32))) == small


def test_where_nothing_is_smaller_there_is_no_cascade_but_of_a_network_that_is_named() -> None:
    smallest = Backbone("resnet8", 10, (3, 16, 16))
    with pytest.raises(NotApplicable, match=r"resnet8 has no smaller.*cascade\.small"):
        Cascade().build(smallest, CascadeConfig())
    assert Cascade().build(smallest, CascadeConfig(small="resnet8"))
