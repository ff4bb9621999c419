"""How exit rules are fitted to held-out images: shares of a budget, and rules learned backwards.

The budget protocol is MSDNet's (Huang et al., ICLR 2018, and kalviny/MSDNet-PyTorch); learning
the rules from the last exit to the first is that of Bolukbasi et al. (ICML 2017). Pure functions
of logits, and what applies them to an ExitResNet. Owns no rule and no network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.errors import ConfigError
from bench.networks.exit_rules import LearnedRule, ThresholdRule, confidence_features
from bench.networks.exits import ExitResNet
from bench.networks.unit import Unit

_NEWTON_STEPS = 50
_ENOUGH = 1e-10


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


def weighted_logistic(
    features_mf: Tensor, labels_m: Tensor, weights_m: Tensor, *, ridge: float
) -> tuple[Tensor, Tensor]:
    """Return (F,) and () float64: z = w.f + b such that sigmoid(z) is the chance of label 1.

    Minimises the weighted mean of the logistic loss plus ridge/2 of the squares of w and b, both
    on standardised features, by Newton's method with halved steps: deterministic, convex.
    """
    features_mf = features_mf.double().cpu()
    mean_f = features_mf.mean(dim=0)
    scale_f = features_mf.std(dim=0, correction=0).clamp(min=1e-9)
    ones_m1 = torch.ones(len(features_mf), 1, dtype=torch.float64)
    x_mg = torch.cat([(features_mf - mean_f) / scale_f, ones_m1], dim=1)
    sign_m = 2 * labels_m.double().cpu() - 1
    share_m = weights_m.double().cpu() / weights_m.double().cpu().sum().clamp(min=1e-300)
    theta_g = torch.zeros(x_mg.shape[1], dtype=torch.float64)
    for _ in range(_NEWTON_STEPS):
        step_g = _newton_step(theta_g, x_mg, sign_m, share_m, ridge=ridge)
        size = 1.0
        before = _objective(theta_g, x_mg, sign_m, share_m, ridge=ridge)
        while _objective(theta_g - size * step_g, x_mg, sign_m, share_m, ridge=ridge) > before:
            size /= 2
        theta_g = theta_g - size * step_g
        if step_g.abs().max() < _ENOUGH:
            break
    weights_f = theta_g[:-1] / scale_f
    return weights_f, theta_g[-1] - weights_f @ mean_f


def _objective(
    theta_g: Tensor, x_mg: Tensor, sign_m: Tensor, share_m: Tensor, *, ridge: float
) -> float:
    losses_m = F.softplus(-sign_m * (x_mg @ theta_g))
    return float(share_m @ losses_m + ridge / 2 * theta_g @ theta_g)


def _newton_step(
    theta_g: Tensor, x_mg: Tensor, sign_m: Tensor, share_m: Tensor, *, ridge: float
) -> Tensor:
    wrong_m = torch.sigmoid(-sign_m * (x_mg @ theta_g))
    gradient_g = -x_mg.T @ (share_m * sign_m * wrong_m) + ridge * theta_g
    curvature_mg = x_mg * (share_m * wrong_m * (1 - wrong_m))[:, None]
    hessian_gg = x_mg.T @ curvature_mg + ridge * torch.eye(len(theta_g), dtype=torch.float64)
    step_g: Tensor = torch.linalg.solve(hessian_gg, gradient_g)
    return step_g


def learn_backwards(
    features_emf: Tensor, losses_wm: Tensor, costs_w: Sequence[float], *, ridge: float
) -> tuple[Tensor, Tensor]:
    """Return the regressions (E, F), (E,) of all exits, learned from the last to the first.

    `losses_wm` (W, M) is what each image loses if it leaves by each way out, `costs_w` what
    getting there costs, in the same unit. At each exit the label says whether leaving is cheaper
    than going on under the rules already learned; an image weighs as much as the difference.
    """
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    ahead_m = losses_wm[-1] + costs_w[-1]
    for e in reversed(range(len(features_emf))):
        stop_m = losses_wm[e] + costs_w[e]
        gain_m = ahead_m - stop_m
        weights_f, bias = weighted_logistic(features_emf[e], gain_m > 0, gain_m.abs(), ridge=ridge)
        leaves_m = features_emf[e] @ weights_f + bias > 0
        ahead_m = torch.where(leaves_m, stop_m, ahead_m)
        weights.insert(0, weights_f)
        biases.insert(0, bias)
    return torch.stack(weights), torch.stack(biases)


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


def calibrate_by_learning(
    net: ExitResNet,
    logits_wmk: Tensor,
    losses_wm: Tensor,
    *,
    prices: Sequence[float],
    ridge: float,
) -> None:
    """Learn the rules of each operating point: what all MACs of the dense network may cost.

    `losses_wm` are losses by each way out, as in `learn_backwards`.
    """
    rule = net.rule
    assert isinstance(rule, LearnedRule)
    sides_emk = logits_wmk[:-1].cpu()
    features_emf = torch.stack([confidence_features(logits_mk) for logits_mk in sides_emk])
    shares = cost_shares(net)
    for point, price in enumerate(prices):
        costs_w = [price * share for share in shares]
        losses = losses_wm.double().cpu()
        rule.set_point(point, *learn_backwards(features_emf, losses, costs_w, ridge=ridge))


def cost_shares(net: ExitResNet) -> list[float]:
    """Return what leaving by each way out costs, heads and rules included, in MACs relative to
    the dense network."""
    units = net.units()
    macs_u = [_macs(unit, device=net.passed_u.device) for unit in units]
    dense = sum(macs for macs, unit in zip(macs_u, units, strict=True) if unit.role != "policy")
    passed = net.passed_u.tolist()
    ways = range(net.rule.num_exits + 1)
    return [sum(m for m, n in zip(macs_u, passed, strict=True) if n <= k) / dense for k in ways]


def _macs(unit: Unit, *, device: torch.device) -> int:
    with torch.inference_mode(mode=False), torch.no_grad():
        probe = torch.zeros(1, *unit.input_shape, device=device)
        with FlopCounterMode(display=False) as counter:
            unit.module(probe)
    return int(counter.get_total_flops()) // 2
