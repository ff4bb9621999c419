"""Weights that a method's `build` brings along: their training cost is unknown.

Owns how they are found: a twin is built from another seed and from another start, and what is the
same in both comes from neither. Reads no file and trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from bench.config import RunSpec
from bench.engine.building import (
    Workplace,
    backbone_of,
    method_of,
    parent_of,
    source_of,
    starting_weights,
)
from bench.method import DerivedMethod, DynamicNet
from bench.seeding import seeded

_FEWEST_VALUES = 16
"""Constants and patterns (ones, a forget gate's bias) have fewer different values than weights."""

_STATISTICS = ("running_mean", "running_var")


def brought_along(net: DynamicNet, spec: RunSpec, place: Workplace) -> str:
    """Say which weights of `net`, as it was built, come neither from its seed nor from its start;
    '' if all do. The random state is afterwards as it was."""
    with seeded(spec.seed, "twin"):
        twin = _built_otherwise(spec, place)
    other = dict(_weights(twin))
    same = [
        name
        for name, value in _weights(net).items()
        if name in other and _is_same(value, other[name]) and _has_many_values(value)
    ]
    if not same:
        return ""
    more = f" and {len(same) - 1} more" if len(same) > 1 else ""
    return (
        f"its build brings weights along that depend neither on the seed nor on the start: "
        f"{same[0]}{more}"
    )


def _built_otherwise(spec: RunSpec, place: Workplace) -> DynamicNet:
    method, config = method_of(spec)
    if isinstance(method, DerivedMethod):
        source = source_of(parent_of(spec, place), place)
        for point in source.points:
            for value in _weights(point.net).values():
                value.data.copy_(_other(value.data))
        return method.derive(source, backbone_of(spec, place), config)
    weights = starting_weights(spec, place)
    state = None if weights is None else {k: _other(v) for k, v in weights.state.items()}
    return method.build(replace(backbone_of(spec, place), weights=state), config)


def _other(value: Tensor) -> Tensor:
    """Return another value of the same kind: a variance stays positive."""
    return value * 1.01 + 0.001 if value.is_floating_point() else value


def _weights(net: nn.Module) -> Mapping[str, Tensor]:
    """Return parameters, and the statistics of norms, by name."""
    found: dict[str, Tensor] = dict(net.named_parameters())
    found |= {n: b for n, b in net.named_buffers() if n.rpartition(".")[2] in _STATISTICS}
    return found


def _is_same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a.detach().cpu() == b.detach().cpu()).all())


def _has_many_values(value: Tensor) -> bool:
    return len(torch.unique(value.detach())) > _FEWEST_VALUES
