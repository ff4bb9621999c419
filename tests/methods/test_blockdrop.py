"""BlockDrop against its conformance points: reward, self-critical loss, curriculum, frozen net."""

from itertools import pairwise

import pytest
import torch

from bench.data.augment import Batch
from bench.measure.cost import unit_macs
from bench.method import Budget, OptimizerSpec
from bench.networks.gated import GatedResNet
from bench.networks.resnet import Backbone
from methods.blockdrop import (
    BlockDrop,
    BlockDropConfig,
    Curriculum,
    Joint,
    PolicyNet,
    bounded,
    policy_loss,
    reward,
)

BACKBONE = Backbone("resnet14", 10, (3, 16, 16))


def _net() -> GatedResNet:
    torch.manual_seed(0)
    net = BlockDrop().build(BACKBONE, BlockDropConfig())
    assert isinstance(net, GatedResNet)
    return net


def _batch(count: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, 16, 16, generator=generator)
    return Batch(x, torch.arange(count) % 10, torch.arange(count))


def test_a_right_answer_earns_one_minus_the_square_of_the_share_run() -> None:
    gates = torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]])
    right = torch.tensor([True, True, True, False])
    assert reward(gates, right, penalty=5.0).tolist() == [0.0, 0.75, 1.0, -5.0]


def test_probabilities_are_kept_away_from_zero_and_one() -> None:
    s = torch.tensor([0.0, 0.5, 1.0])
    assert bounded(s, bound=0.8).tolist() == pytest.approx([0.2, 0.5, 0.8])


def test_descent_on_the_policy_loss_makes_a_better_mask_likelier() -> None:
    logit = torch.zeros(1, 2, requires_grad=True)
    sampled = torch.tensor([[1.0, 0.0]])
    loss = policy_loss(torch.sigmoid(logit), sampled, advantage_n=torch.tensor([2.0]))
    loss.backward()
    assert logit.grad is not None
    assert logit.grad[0, 0] < 0
    assert logit.grad[0, 1] > 0


def test_the_policy_loss_is_minus_advantage_times_log_probability() -> None:
    s = torch.tensor([[0.3, 0.6], [0.5, 0.5]])
    sampled = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    log_p = torch.tensor([0.3 * 0.4, 0.25]).log()
    expected = -(torch.tensor([1.5, -0.5]) * log_p).mean()
    found = policy_loss(s, sampled, advantage_n=torch.tensor([1.5, -0.5]))
    assert found.item() == pytest.approx(expected.item())


def test_the_curriculum_samples_one_more_of_the_last_blocks_at_a_time() -> None:
    phase = Curriculum(BlockDropConfig(ramp=0.5), epochs=4, batch_size=16, published=False)
    counts = [phase.sampled_blocks(6, progress / 24) for progress in range(25)]
    assert counts[0] == 1
    assert counts[12:] == [6] * 13
    assert all(later - earlier in (0, 1) for earlier, later in pairwise(counts))


def test_the_curriculum_leaves_the_resnet_frozen_with_its_statistics() -> None:
    net = _net()
    before = {key: value.clone() for key, value in net.trunk.state_dict().items()}
    phase = Curriculum(BlockDropConfig(), epochs=1, batch_size=16, published=False)
    phase.set_modes(net)
    phase.loss(net, _batch(), 1.0).total.backward()
    assert all(torch.equal(value, before[key]) for key, value in net.trunk.state_dict().items())
    assert all(parameter.grad is None for parameter in net.trunk.parameters())
    assert all(parameter.grad is not None for parameter in net.policy.parameters())


def test_early_in_the_curriculum_only_the_last_block_may_be_dropped() -> None:
    net, seen = _net(), []
    original = net.execute_with

    def spy(x: torch.Tensor, gates: torch.Tensor) -> object:
        seen.append(gates.clone())
        return original(x, gates)

    net.execute_with = spy  # type: ignore[method-assign, assignment]
    phase = Curriculum(BlockDropConfig(), epochs=1, batch_size=64, published=False)
    phase.set_modes(net)
    phase.loss(net, _batch(64), 0.0)
    assert len(seen) == 2
    assert all(bool((gates[:, :-1] == 1).all()) for gates in seen)
    assert any(bool((gates[:, -1] == 0).any()) for gates in seen)


def test_the_joint_phase_teaches_policy_and_resnet_from_disjoint_losses() -> None:
    net = _net()
    phase = Joint(BlockDropConfig(), epochs=1, batch_size=16)
    phase.set_modes(net)
    terms = phase.loss(net, _batch(), 0.5)
    assert terms.total.item() == pytest.approx(
        (terms.parts["loss"] + terms.parts["loss_policy"]).item()
    )
    terms.parts["loss"].backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in net.policy.parameters())
    assert any(parameter.grad is not None for parameter in net.trunk.parameters())


def test_inference_takes_the_most_probable_mask_without_bounding() -> None:
    net = _net().eval()
    assert isinstance(net.policy, PolicyNet)
    x = _batch().x_nchw
    output = net(x)
    expected = (net.policy.probabilities(x) >= 0.5).float()
    assert torch.equal(output.executed[:, 1:7], expected)


def test_the_policy_costs_a_resnet8_which_is_a_sixth_of_a_resnet32() -> None:
    net = BlockDrop().build(Backbone("resnet32", 10, (3, 32, 32)), BlockDropConfig())
    macs = unit_macs(net)
    assert macs["policy"] == 12_239_488 + 64 * 5
    assert macs["policy"] / 68_862_592 == pytest.approx(0.178, abs=1e-3)


def test_the_published_schedule_is_5000_and_2000_epochs() -> None:
    method, config = BlockDrop(), BlockDropConfig()
    budget = Budget(
        recipe="paper",
        epochs=method.published_epochs(config),
        batch_size=128,
        optimizer=OptimizerSpec(),
        published=True,
    )
    curriculum, joint = method.phases(config, budget)
    assert isinstance(curriculum, Curriculum)
    assert [curriculum.sampled_blocks(54, epoch / 5000) for epoch in (0, 1, 10, 4000)] == [
        1,
        2,
        11,
        54,
    ]
    assert (curriculum.epochs, curriculum.batch_size) == (5000, 2048)
    assert (joint.epochs, joint.batch_size, joint.optimizer.lr) == (2000, 256, 1e-4)
