"""How the thresholds of exits are fitted to held-out images: shares of a budget leave at each.

The protocol is MSDNet's (Huang et al., ICLR 2018, and kalviny/MSDNet-PyTorch). Owns no rule and no
network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from bench.errors import ConfigError
from bench.networks.exit_rules import ThresholdRule
from bench.networks.exits import ExitResNet


def ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    """Return `values` if there are any and each is larger than the one before.

    Raises:
        ValueError: they are not; settings report it.
    """
    if not values or any(a >= b for a, b in pairwise(values)):
        raise ValueError("expected one or more numbers, each larger than the one before")
    return values


def exit_shares(p: float, *, ways_out: int) -> list[float]:
    """Return q_k proportional to p^k, k = 1 ... ways_out: the share that leaves by each way."""
    powers = [p**k for k in range(1, ways_out + 1)]
    return [power / sum(powers) for power in powers]


def cuts_for_shares(confidence_em: Tensor, shares: Sequence[float]) -> list[float]:
    """Return one cut per exit: of those not yet gone, leave whose confidence is above it.

    `confidence_em` (E, M) is how sure each of M images is at each exit but the last way out;
    `shares` says which share of all M leaves by each way out, so that after exit e
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


def held_out_logits(net: ExitResNet, images: Iterable[Tensor]) -> Tensor:
    """Return the logits of all ways out on batches of images (N, C, H, W): (W, M, K).

    Raises:
        ConfigError: there are no images.
    """
    with torch.no_grad():
        parts = [net.exit_logits(x_nchw).float() for x_nchw in images]
    if not parts:
        raise ConfigError(
            "Exit thresholds are chosen on training images that are kept apart; there are none.",
            hint="Keep some with --held-out COUNT.",
        )
    return torch.cat(parts, dim=1)


def calibrate_to_budgets(net: ExitResNet, images: Iterable[Tensor], p: Sequence[float]) -> None:
    """Set the thresholds of each operating point to the exit distribution of its p."""
    rule = net.rule
    assert isinstance(rule, ThresholdRule)
    sides_emk = held_out_logits(net, images)[:-1]
    confidence_em = torch.stack([rule.confidence(logits_mk) for logits_mk in sides_emk])
    ways = rule.num_exits + 1
    cuts = [cuts_for_shares(confidence_em, exit_shares(value, ways_out=ways)) for value in p]
    rule.set_cuts(torch.tensor(cuts, dtype=torch.float64).to(rule.thresholds_pe))
