"""How the thresholds of exits are fitted to held-out images.

Either shares of the images leave at each exit, which is the protocol of MSDNet (Huang et al., ICLR
2018, and kalviny/MSDNet-PyTorch), or there is one threshold for all exits, such that the mean cost
stays within a budget. Owns no rule and no network.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import AfterValidator, Field, PositiveFloat
from torch import Tensor

from bench.errors import ConfigError
from bench.networks.exit_rules import ThresholdRule
from bench.networks.exits import ExitResNet
from bench.networks.macs import macs_of


def ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    """Return `values` if there are any and each is larger than the one before.

    Raises:
        ValueError: they are not; settings report it.
    """
    if not values or any(a >= b for a, b in pairwise(values)):
        raise ValueError("expected one or more numbers, each larger than the one before")
    return values


Ascending = Annotated[tuple[PositiveFloat, ...], AfterValidator(ascending)]
"""A setting: one or more positive numbers, each larger than the one before."""
AscendingShares = Annotated[
    tuple[Annotated[float, Field(gt=0, lt=1)], ...], AfterValidator(ascending)
]
"""A setting: the same between 0 and 1."""


def exit_shares(p: float, *, exits: int) -> list[float]:
    """Return q_k proportional to p^k, k = 1 ... exits: the share that leaves at each."""
    powers = [p**k for k in range(1, exits + 1)]
    return [power / sum(powers) for power in powers]


def cuts_for_shares(confidence_em: Tensor, shares: Sequence[float]) -> list[float]:
    """Return one cut per exit: of those not yet gone, leave whose confidence is above it.

    `confidence_em` (E, M) is how sure each of M images is at each exit but the trunk's own head;
    `shares` says which share of all M leaves at each, so that after exit e
    round(M (q_1 + ... + q_e)) are gone. A cut lies halfway between the last who leaves and the
    first who stays; those who tie with the last who leaves go too, and the next exit makes up.
    """
    count, wanted = confidence_em.shape[1], 0.0
    waiting_m = torch.ones(count, dtype=torch.bool, device=confidence_em.device)
    cuts: list[float] = []
    for e, confidence_m in enumerate(confidence_em):
        wanted += shares[e]
        leaving = round(wanted * count) - (count - int(waiting_m.sum()))
        cuts.append(_cut(confidence_m[waiting_m], leaving))
        waiting_m &= confidence_m <= cuts[-1]
    return cuts


def _cut(confidence_m: Tensor, leaving: int) -> float:
    if leaving <= 0:
        return float("inf")
    ordered_m = confidence_m.sort(descending=True).values
    if leaving >= len(ordered_m):
        return float("-inf")
    last = ordered_m[leaving - 1]
    stayed_m = ordered_m[ordered_m < last]
    return float((last + stayed_m[0]) / 2) if len(stayed_m) > 0 else float("-inf")


def held_out_answers(net: ExitResNet, images: Iterable[Tensor]) -> Tensor:
    """Return the answers of all classifiers to batches of images (N, C, H, W): (W, M, K).

    Raises:
        ConfigError: there are no images.
    """
    with torch.no_grad():
        parts = [net.answers(net.exit_logits(x_nchw)).float() for x_nchw in images]
    if not parts:
        raise ConfigError(
            "Exit thresholds are chosen on training images that are kept apart; there are none.",
            hint="Keep some with --held-out COUNT.",
        )
    return torch.cat(parts, dim=1)


def calibrate_to_budgets(net: ExitResNet, images: Iterable[Tensor], p: Sequence[float]) -> None:
    """Set the thresholds of each operating point to the exit distribution of its p."""
    rule, confidence_em = _confidence(net, images)
    count = rule.num_exits + 1
    cuts = [cuts_for_shares(confidence_em, exit_shares(value, exits=count)) for value in p]
    rule.set_cuts(torch.tensor(cuts, dtype=torch.float64).to(rule.thresholds_pe))


def calibrate_to_costs(net: ExitResNet, images: Iterable[Tensor], budgets: Sequence[float]) -> None:
    """Set one threshold for all exits at each operating point: of those under which the images cost
    at most a budget on average, relative to the dense network, the one that costs most.

    Where even leaving at the first exit costs more, all leave there.
    """
    rule, confidence_em = _confidence(net, images)
    costs_w = cost_shares(net)
    cuts_p = [cut_within(confidence_em, costs_w, budget) for budget in budgets]
    cuts_pe = torch.tensor(cuts_p, dtype=torch.float64)[:, None].expand(-1, rule.num_exits)
    rule.set_cuts(cuts_pe.to(rule.thresholds_pe))


def _confidence(net: ExitResNet, images: Iterable[Tensor]) -> tuple[ThresholdRule, Tensor]:
    """Return the rule of a network, and how sure M images are at its exits, (E, M)."""
    rule = net.rule
    assert isinstance(rule, ThresholdRule)
    answers_emk = held_out_answers(net, images)[:-1]
    return rule, torch.stack([rule.confidence(answers_mk) for answers_mk in answers_emk])


def cut_within(confidence_em: Tensor, costs_w: Sequence[float], budget: float) -> float:
    """Return the highest cut such that the mean cost is at most `budget`; -inf if none is.

    An image leaves at the first exit where its confidence (E, M) is above the cut, and pays what
    leaving there costs. The mean cost never falls as the cut rises.
    """
    levels: list[float] = sorted(set(confidence_em.flatten().tolist()))
    cuts = [-math.inf, *((low + high) / 2 for low, high in pairwise(levels)), math.inf]
    place = bisect_right(cuts, budget, key=lambda cut: _mean_cost(confidence_em, costs_w, cut))
    return cuts[max(place - 1, 0)]


def _mean_cost(confidence_em: Tensor, costs_w: Sequence[float], cut: float) -> float:
    costs = torch.tensor(costs_w, dtype=torch.float64, device=confidence_em.device)
    stays_em = (confidence_em <= cut).double().cumprod(dim=0)
    return float(costs[0] + (stays_em.mean(dim=1) * costs.diff()).sum())


def cost_shares(net: ExitResNet) -> list[float]:
    """Return what leaving at each classifier costs, heads and rules included, in MACs relative to
    the dense network."""
    units = net.units()
    macs_u = [macs_of(unit, device=net.passed_u.device) for unit in units]
    dense = sum(macs for macs, unit in zip(macs_u, units, strict=True) if unit.role != "policy")
    passed = net.passed_u.tolist()
    count = range(net.rule.num_exits + 1)
    return [sum(m for m, n in zip(macs_u, passed, strict=True) if n <= k) / dense for k in count]
