"""Learned exits: at each exit a logistic regression decides whether going on is worth its cost.

Reference: Bolukbasi, Wang, Dekel, Saligrama, "Adaptive Neural Networks for Efficient Inference",
ICML 2017, arXiv 1702.07811 (its adaptive early exits; the selection among several networks is left
out). Known here from its abstract; what that does not state is reconstructed.

How it decides. A linear classifier reads the features behind each stage. From the confidence
features of its softmax (largest probability, entropy, margin) a logistic regression says whether
the image leaves. Its three multiplications are counted.

How it learns. The network itself is left intact: the exits' classifiers are trained on it frozen,
from the cross-entropy. Then the rules are fitted on held-out training images, exit by exit, from
the last to the first. With C_k the MACs to exit k (heads and rules included) relative to the
dense network, lambda the price of a dense network's MACs, and l_k what leaving there gets wrong:

    stop_k  = l_k + lambda C_k
    ahead_k = stop at the exit that the rules already learned would choose behind k
    label   = 1[stop_k < ahead_k],     weight = |ahead_k - stop_k|

a weighted binary classification per exit. l_k is 1 for an answer that is wrong where the whole
network's is right ("excess"), or 1 for any wrong answer ("error"). One lambda, one operating
point; the larger lambda, the earlier images leave.

Published on ImageNet: up to 2.8 times faster with less than 1 % of top-5 accuracy lost; that is
with networks selected as well. Nothing is published for the ResNets of this project.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.method import (
    Backbone,
    Batch,
    Budget,
    Choice,
    DynamicNet,
    LogUniform,
    Method,
    MethodConfig,
    Phase,
    Point,
    Reference,
    Tags,
    Unit,
)
from bench.networks.exit_calibration import Ascending, cost_shares, held_out_answers
from bench.networks.exit_heads import HeadKind
from bench.networks.exit_rules import Carried, ExitRule
from bench.networks.exits import NUM_EXITS, ExitResNet
from bench.phases import ExitsAlone

_EPOCHS = 20  # no schedule is known
_NEWTON_STEPS, _ENOUGH = 50, 1e-10
FEATURES = ("largest probability", "entropy", "margin")


class LearnedExitConfig(MethodConfig):
    """Settings of learned exits; all reconstructed."""

    head: Annotated[HeadKind, Choice(("grid", "pooled"))] = Field(
        "grid", description="what classifies at an exit"
    )
    lambdas: Ascending = Field(
        (0.05, 0.1, 0.2, 0.4, 0.8), description="price of a dense network's MACs, in errors"
    )
    loss: Literal["excess", "error"] = Field(
        "excess", description="what counts as wrong: only what the whole network gets right, or all"
    )
    ridge: Annotated[float, LogUniform(1e-4, 0.1)] = Field(
        1e-3, gt=0, description="penalty on the squares of the rules' weights"
    )


def confidence_features(logits_nk: Tensor) -> Tensor:
    """Return largest probability, entropy (nats) and margin of each softmax, (N, 3) float64.

    The margin is the distance between the two largest probabilities.
    """
    log_nk = logits_nk.double().log_softmax(dim=1)
    p_nk = log_nk.exp()
    first_n, second_n = p_nk.topk(2, dim=1).values.unbind(1)
    return torch.stack([first_n, -(p_nk * log_nk).sum(dim=1), first_n - second_n], dim=1)


class Score(nn.Module):
    """A linear function of the confidence features, one per operating point: (N, F) -> (N, 1)."""

    weights_pf: Tensor
    biases_p: Tensor

    def __init__(self, num_points: int) -> None:
        super().__init__()
        size = (num_points, len(FEATURES))
        self.register_buffer("weights_pf", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("biases_p", torch.full((num_points,), -1.0, dtype=torch.float64))

    def forward(self, features_nf: Tensor, point: int = 0) -> Tensor:
        row = slice(point, point + 1)
        return F.linear(
            features_nf.to(self.weights_pf.dtype), self.weights_pf[row], self.biases_p[row]
        )


class LearnedRule(ExitRule):
    """An image leaves if a logistic regression on its confidence features says so (score > 0)."""

    def __init__(self, num_points: int, num_exits: int) -> None:
        super().__init__(num_points, num_exits)
        self.scores = nn.ModuleList(Score(num_points) for _ in range(num_exits))

    def leaves(self, answer_nk: Tensor, _: Carried, *, exit_index: int, point: int) -> Tensor:
        score_n1: Tensor = self.scores[exit_index](confidence_features(answer_nk), point)
        return score_n1.flatten() > 0

    def units(self, exit_index: int) -> Sequence[Unit]:
        if exit_index == self.num_exits:
            return ()
        name, score = f"exit{exit_index + 1}.rule", self.scores[exit_index]
        return [Unit(name, score, (len(FEATURES),), True, "policy")]

    def set_point(self, point: int, weights_ef: Tensor, biases_e: Tensor) -> None:
        """Adopt the regressions of all exits (E, F), (E,) for one operating point."""
        for score, weights_f, bias in zip(self.scores, weights_ef, biases_e, strict=True):
            assert isinstance(score, Score)
            score.weights_pf[point] = weights_f.to(score.weights_pf)
            score.biases_p[point] = bias.to(score.biases_p)


def losses_by_exit(logits_wmk: Tensor, labels_m: Tensor, *, kind: str) -> Tensor:
    """Return what M images lose at each exit, (W, M) of 0 and 1, from their logits."""
    wrong_wm = (logits_wmk.argmax(dim=2) != labels_m).double()
    return (wrong_wm - wrong_wm[-1]).clamp(min=0) if kind == "excess" else wrong_wm


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

    `losses_wm` (W, M) is what each image loses if it leaves at each exit, `costs_w` what
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


def calibrate_by_learning(
    net: ExitResNet,
    logits_wmk: Tensor,
    losses_wm: Tensor,
    *,
    prices: Sequence[float],
    ridge: float,
) -> None:
    """Learn the rules of each operating point: what all MACs of the dense network may cost.

    `losses_wm` are losses at each exit, as in `learn_backwards`.
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


class LearnedExit(Method[LearnedExitConfig]):
    """Exits on a frozen network, taken by rules that weigh errors against MACs."""

    name = "learned_exit"
    reference = Reference(
        title="Adaptive Neural Networks for Efficient Inference",
        authors="Bolukbasi, Wang, Dekel, Saligrama",
        year=2017,
        url="https://arxiv.org/abs/1702.07811",
    )
    tags = Tags(
        decision="exit",
        starts_from_dense=True,
        extra_share=0.1,
        calibrates=True,
        reconstructed=("head", "lambdas", "loss", "ridge"),
    )

    def variant(self, config: LearnedExitConfig) -> str:
        return f"{config.loss} {config.head}"

    def published_epochs(self, config: LearnedExitConfig) -> int:
        return _EPOCHS

    def build(self, backbone: Backbone, config: LearnedExitConfig) -> DynamicNet:
        rule = LearnedRule(len(config.lambdas), NUM_EXITS)
        return ExitResNet(backbone, rule, head=config.head)

    def phases(self, config: LearnedExitConfig, budget: Budget) -> Sequence[Phase]:
        return [ExitsAlone("classifiers", **budget.schedule())]

    def calibrate(
        self, net: DynamicNet, config: LearnedExitConfig, held_out: Iterable[Batch]
    ) -> None:
        assert isinstance(net, ExitResNet)
        logits_wmk = held_out_answers(net, (batch.x_nchw for batch in held_out))
        labels_m = torch.cat([batch.labels_n for batch in held_out])
        losses_wm = losses_by_exit(logits_wmk, labels_m, kind=config.loss)
        calibrate_by_learning(net, logits_wmk, losses_wm, prices=config.lambdas, ridge=config.ridge)

    def operating_points(self, net: DynamicNet, config: LearnedExitConfig) -> Sequence[Point]:
        assert isinstance(net, ExitResNet)
        return [Point(*view) for view in net.views([f"lambda={v:g}" for v in config.lambdas])]
