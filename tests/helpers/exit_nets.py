"""Small networks with exits, seasoned and set to divide their images; the tests lie elsewhere."""

from __future__ import annotations

import functools

import torch
from gated_nets import backbone, images, season

from bench.networks.exit_calibration import calibrate_to_budgets, held_out_answers
from bench.networks.exit_heads import HeadKind
from bench.networks.exit_rules import EntropyBelow, ExitRule, ProbabilityReaches
from bench.networks.exits import NUM_EXITS, ExitResNet
from methods.learned_exit import LearnedRule, calibrate_by_learning

RULES: dict[str, type[ExitRule]] = {
    "entropy": EntropyBelow,
    "probability": ProbabilityReaches,
    "learned": LearnedRule,
}
BUDGETS = (0.5, 1.0, 2.0)
POINTS = len(BUDGETS)


def fresh(rule: str = "entropy", *, head: HeadKind = "pooled", shortcut: str = "B") -> ExitResNet:
    """Return a network as it is built, with batch norms as training would leave them."""
    torch.manual_seed(6)
    return season(ExitResNet(backbone(shortcut), RULES[rule](POINTS, NUM_EXITS), head=head))


@functools.cache
def calibrated(rule: str = "entropy", head: HeadKind = "pooled", shortcut: str = "B") -> ExitResNet:
    """Return a network of which, at the middle point, about a third leaves at each exit."""
    net = fresh(rule, head=head, shortcut=shortcut)
    held_out = [images(64, seed=50), images(64, seed=51)]
    if rule != "learned":
        calibrate_to_budgets(net, held_out, BUDGETS)
        return net
    logits_wmk = held_out_answers(net, held_out)
    # Made-up losses: whoever is less sure than most at an exit is wrong there.
    unsure_wm = -logits_wmk.softmax(dim=2).amax(dim=2)
    losses_wm = (unsure_wm > unsure_wm.median(dim=1, keepdim=True).values).double()
    losses_wm[-1] = 0
    calibrate_by_learning(net, logits_wmk, losses_wm, prices=(0.1, 0.5, 1.0), ridge=1e-3)
    return net
