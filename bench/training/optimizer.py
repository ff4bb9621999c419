"""Optimizers and learning rates from an OptimizerSpec; the schedule is a pure function of the step.

Owns no loop. A rate that is computed, not stepped, needs no state in a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bench.method import ParameterGroup
from bench.recipes import OptimizerSpec

_HOW_IT_RUNS = ("lr", "foreach", "fused", "capturable")


def build_optimizer(groups: Sequence[ParameterGroup], spec: OptimizerSpec) -> torch.optim.Optimizer:
    """Return the optimizer over the parameters of `groups` that require a gradient."""
    options = [
        {
            "params": [p for p in group.parameters if p.requires_grad],
            "lr": spec.lr * group.lr_scale,
            "lr_scale": group.lr_scale,
        }
        for group in groups
    ]
    decay = spec.weight_decay
    if spec.kind != "sgd":
        adam = torch.optim.Adam if spec.kind == "adam" else torch.optim.AdamW
        betas = (spec.momentum, 0.999)
        return adam(options, lr=spec.lr, betas=betas, weight_decay=decay)
    return torch.optim.SGD(options, lr=spec.lr, momentum=spec.momentum, weight_decay=decay)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load the state of an optimizer of the same parameters, which may have run elsewhere."""
    kept = [
        saved | {name: own[name] for name in _HOW_IT_RUNS if name in own}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": kept})


def learning_rate(spec: OptimizerSpec, *, step: int, total_steps: int) -> float:
    """Return the rate at `step` (from 0) of a phase of `total_steps`."""
    if step < spec.warmup_steps:
        rise = step / spec.warmup_steps
        return spec.lr * (spec.warmup_from + (1 - spec.warmup_from) * rise)
    progress = step / max(total_steps, 1)
    if spec.schedule == "cosine":
        return spec.lr * 0.5 * (1 + math.cos(math.pi * progress))
    if spec.schedule == "step":
        return spec.lr * spec.decay ** sum(progress >= m for m in spec.milestones)
    return spec.lr


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every group, times the group's own scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
