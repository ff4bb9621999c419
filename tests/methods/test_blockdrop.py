"""BlockDrop against its conformance points: reward, self-critical loss, curriculum, frozen net."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from method_nets import batch_of, built, published
from small_runs import dense_weights, nflops, trained_on_digits

from bench.measure.cost import unit_macs
from bench.networks.trunk import Backbone
from methods.blockdrop import (
    BlockDrop,
    BlockDropConfig,
    Curriculum,
    Joint,
    bounded,
    entropy_bonus,
    policy_loss,
    reward,
)

_net = partial(built, BlockDrop())


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
    phase.loss(net, batch_of(), 1.0).total.backward()
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
    phase.loss(net, batch_of(64), 0.0)
    assert len(seen) == 2
    assert all(bool((gates[:, :-1] == 1).all()) for gates in seen)
    assert any(bool((gates[:, -1] == 0).any()) for gates in seen)


def test_the_joint_phase_teaches_policy_and_resnet_from_disjoint_losses() -> None:
    net = _net()
    phase = Joint(BlockDropConfig(), epochs=1, batch_size=16)
    phase.set_modes(net)
    terms = phase.loss(net, batch_of(), 0.5)
    assert terms.total.item() == pytest.approx(
        (terms.parts["loss"] + terms.parts["loss_policy"]).item()
    )
    terms.parts["loss"].backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in net.policy.parameters())
    assert any(parameter.grad is not None for parameter in net.trunk.parameters())


def test_inference_takes_the_most_probable_mask_without_bounding() -> None:
    net = _net().eval()
    x = batch_of().x_nchw
    output = net(x)
    expected = (net.policy.probabilities(x) >= 0.5).float()
    assert torch.equal(output.executed[:, 1:7], expected)


def test_the_policy_costs_a_resnet8_which_is_a_sixth_of_a_resnet32() -> None:
    net = BlockDrop().build(Backbone("resnet32", 10, (3, 32, 32)), BlockDropConfig())
    macs = unit_macs(net)
    assert macs["policy"] == 12_239_488 + 64 * 5
    assert macs["policy"] / 68_862_592 == pytest.approx(0.178, abs=1e-3)


def test_by_the_published_schedule_each_epoch_samples_one_more_block() -> None:
    method, config = BlockDrop(), BlockDropConfig()
    curriculum, _ = method.phases(config, published(method, config))
    counts = [curriculum.sampled_blocks(54, epoch / 5000) for epoch in (0, 1, 10, 4000)]
    assert counts == [1, 2, 11, 54]


def test_the_pass_for_the_baseline_carries_no_gradient() -> None:
    net, seen = _net(), []
    original = net.forward_with

    def spy(x: torch.Tensor, gates: torch.Tensor) -> object:
        output = original(x, gates)
        seen.append((gates, torch.is_grad_enabled(), output.logits.requires_grad))
        return output

    net.forward_with = spy  # type: ignore[method-assign, assignment]
    phase = Joint(BlockDropConfig(), epochs=1, batch_size=64)
    phase.set_modes(net)
    terms = phase.loss(net, batch_of(64), 0.5)
    (rounded, *without), (sampled, *with_gradient) = seen
    assert without == [False, False]
    assert with_gradient == [True, True]
    assert not rounded.requires_grad and not sampled.requires_grad
    assert set(rounded.unique().tolist()) <= {0.0, 1.0} >= set(sampled.unique().tolist())
    # The reward of the log is the baseline's: that of the rounded policy.
    right = terms.logits.argmax(dim=1) == batch_of(64).labels_n  # type: ignore[union-attr]
    assert terms.parts["reward"].item() == pytest.approx(
        reward(rounded, right, penalty=5.0).mean().item()
    )


def test_each_image_has_an_advantage_of_its_own() -> None:
    s = torch.full((3, 2), 0.5, requires_grad=True)
    sampled = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    policy_loss(s, sampled, advantage_n=torch.tensor([2.0, 0.0, -1.0])).backward()
    # d/ds of -A log pi / N, with log pi = log s where sampled and log(1 - s) where not
    expected = torch.tensor([[-4.0, 4.0], [0.0, 0.0], [2.0, 2.0]]) / 3
    torch.testing.assert_close(s.grad, expected)


@pytest.mark.parametrize("joint", [False, True])
def test_the_reward_of_the_rounded_policy_is_the_baseline(joint: bool) -> None:
    net, config, batch = _net(), BlockDropConfig(), batch_of(64)
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    way = "forward_with" if joint else "execute_with"
    original = getattr(net, way)

    def spy(x: torch.Tensor, gates: torch.Tensor) -> object:
        output = original(x, gates)
        right_n = output.logits.argmax(dim=1) == batch.labels_n
        seen["rounded" if torch.equal(gates, rounded_nb) else "sampled"] = gates, right_n
        return output

    phase: Joint | Curriculum = Joint(config, epochs=1, batch_size=64)
    if not joint:
        phase = Curriculum(config, epochs=1, batch_size=64, published=False)
    phase.set_modes(net)
    with torch.no_grad():
        s_nb = net.policy.probabilities(batch.x_nchw)
    rounded_nb = (s_nb >= 0.5).float()
    setattr(net, way, spy)
    terms = phase.loss(net, batch, 1.0)
    penalty = config.penalty if joint else config.curriculum_penalty
    earned_n, base_n = (reward(*seen[which], penalty=penalty) for which in ("sampled", "rounded"))
    assert not torch.equal(earned_n, base_n)
    s_bounded = bounded(s_nb, bound=config.bound)
    learn = policy_loss(s_bounded, seen["sampled"][0], advantage_n=earned_n - base_n)
    torch.testing.assert_close(terms.parts["loss_policy"].detach(), learn)
    if joint:
        expected = terms.parts["loss"] + learn
    else:
        expected = learn - config.entropy_weight * entropy_bonus(s_bounded, config.entropy)
    torch.testing.assert_close(terms.total.detach(), expected.detach())


def test_in_the_joint_phase_the_statistics_of_the_resnet_see_both_passes() -> None:
    net = _net()
    phase = Joint(BlockDropConfig(), epochs=1, batch_size=16)
    phase.set_modes(net)
    phase.loss(net, batch_of(), 0.5)
    assert {
        int(norm.num_batches_tracked)
        for norm in net.trunk.modules()
        if isinstance(norm, torch.nn.BatchNorm2d) and norm.num_batches_tracked is not None
    } == {2}


@pytest.mark.parametrize(("over", "reached"), [("all blocks", True), ("sampled blocks", False)])
def test_the_entropy_bonus_as_released_reaches_blocks_that_are_still_forced(
    over: str, reached: bool
) -> None:
    net = _net()
    config = BlockDropConfig(entropy_over=over)  # type: ignore[arg-type]
    phase = Curriculum(config, epochs=1, batch_size=16, published=False)
    phase.set_modes(net)
    phase.loss(net, batch_of(), 0.0).total.backward()
    bias = net.policy.get_parameter("net.head.linear.bias")
    assert bool((bias.grad[:-1] != 0).all()) is reached
    assert bool((bias.grad[:-1] == 0).all()) is not reached
    assert bias.grad[-1] != 0


@pytest.mark.parametrize(("entropy", "peak"), [("as released", math.exp(-1)), ("full", 0.5)])
def test_the_entropy_as_released_is_largest_below_one_half(entropy: str, peak: float) -> None:
    bounded_nb = torch.linspace(0.2, 0.8, 601)[:, None]
    values = torch.stack([entropy_bonus(row[None], entropy) for row in bounded_nb])
    assert bounded_nb[values.argmax()].item() == pytest.approx(peak, abs=1e-3)


def test_a_larger_penalty_gives_a_dearer_network() -> None:
    found = []
    for penalty in (0.0, 0.5, 5.0):
        # Faster than published, so that 2 + 2 epochs are enough.
        config = BlockDropConfig(
            penalty=penalty,
            curriculum_penalty=penalty,
            curriculum_share=0.5,
            policy_lr=3e-3,
            joint_lr=3e-4,
            joint_policy_lr_scale=10.0,
        )
        net = trained_on_digits(BlockDrop(), config, epochs=4, weights=dense_weights())
        found.append(nflops(net))
    assert found[0] + 0.02 < found[1] < found[2] - 0.02
