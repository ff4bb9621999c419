"""Rules at an exit: their formulas by hand, both ends of their thresholds, and the state dict."""

from __future__ import annotations

import math

import pytest
import torch

from bench.networks.exit_rules import (
    EntropyBelow,
    ProbabilityReaches,
    entropy_nats,
    largest_probability,
)

HALVES = torch.tensor([[0.5, 0.25, 0.25]]).log()


def logits(count: int = 40) -> torch.Tensor:
    draws = torch.Generator().manual_seed(3)
    return 6 * torch.rand(count, 1, generator=draws) * torch.randn(count, 10, generator=draws)


def test_the_entropy_is_in_nats() -> None:
    assert entropy_nats(HALVES).item() == pytest.approx(1.5 * math.log(2))
    assert entropy_nats(torch.zeros(1, 10)).item() == pytest.approx(math.log(10))


def test_an_image_without_doubt_has_entropy_zero_and_not_nan() -> None:
    sure = torch.tensor([[1e4, 0.0, -1e4], [0.0, 3e38, 0.0]])
    assert entropy_nats(sure).tolist() == [0.0, 0.0]


def test_very_sure_images_do_not_tie() -> None:
    nearly = torch.tensor([[20.0, 0.0], [21.0, 0.0], [22.0, 0.0]])
    assert nearly.softmax(dim=1).amax(dim=1).unique().numel() == 1, "in float32 they would"
    for confidence in (largest_probability(nearly), -entropy_nats(nearly)):
        assert bool((confidence.diff() > 0).all())


@pytest.mark.parametrize(("threshold", "leaving"), [(0.0, 0), (float("inf"), 40)])
def test_at_entropy_zero_nobody_leaves_and_at_infinity_everybody(
    threshold: float, leaving: int
) -> None:
    rule = EntropyBelow(1, 2)
    rule.thresholds_pe.fill_(threshold)
    z = torch.cat([logits(39), torch.tensor([[1e4] + [0.0] * 9])])
    assert int(rule.leaves(z, (), exit_index=0, point=0).sum()) == leaving


def test_a_probability_that_just_reaches_the_threshold_leaves() -> None:
    rule = ProbabilityReaches(1, 1)
    rule.thresholds_pe.fill_(0.5)
    z = torch.tensor([[0.0, 0.0], [0.0, 1e-3]])
    assert rule.leaves(z, (), exit_index=0, point=0).tolist() == [True, True]
    rule.thresholds_pe.fill_(0.50001)
    assert rule.leaves(z, (), exit_index=0, point=0).tolist() == [False, True]


@pytest.mark.parametrize("kind", [EntropyBelow, ProbabilityReaches])
def test_cuts_separate_by_confidence_at_their_own_exit_and_point(
    kind: type[EntropyBelow] | type[ProbabilityReaches],
) -> None:
    rule, z = kind(2, 2), logits()
    confidence = rule.confidence(z)
    middle = confidence.sort().values[19:21].mean()
    rule.set_cuts(torch.tensor([[-math.inf, math.inf], [math.inf, float(middle)]]).double())
    assert bool(rule.leaves(z, (), exit_index=0, point=0).all())
    assert not bool(rule.leaves(z, (), exit_index=1, point=0).any())
    assert not bool(rule.leaves(z, (), exit_index=0, point=1).any())
    assert torch.equal(rule.leaves(z, (), exit_index=1, point=1), confidence > middle)


@pytest.mark.parametrize("kind", [EntropyBelow, ProbabilityReaches])
def test_nobody_leaves_by_a_rule_that_was_never_calibrated(
    kind: type[EntropyBelow] | type[ProbabilityReaches],
) -> None:
    rule = kind(3, 2)
    sure = torch.cat([logits(), torch.tensor([[1e4] + [0.0] * 9])])
    for point in range(3):
        for exit_index in range(2):
            assert not bool(rule.leaves(sure, (), exit_index=exit_index, point=point).any())


def test_what_a_rule_compares_with_travels_in_its_state_dict() -> None:
    shapes = {key: tuple(v.shape) for key, v in EntropyBelow(5, 2).state_dict().items()}
    assert shapes == {"thresholds_pe": (5, 2)}
