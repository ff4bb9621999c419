"""What matrix products cost that torch's counter does not know, and a quick count of a unit.

A quick count decides where exits lie; whatever a user sees is counted, and held to a second one, by
bench.measure.cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.networks.unit import Unit

aten = torch.ops.aten
Shape = Sequence[int]


def _added_matrices(added: Shape, a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(a) * b[-1]


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """(..., S, D), (..., T, D), (..., T, V): queries with keys, then weights with values."""
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


FORMULAS: Mapping[Any, Callable[..., int]] = {
    **dict.fromkeys((aten.mv, aten.dot, aten.vdot), lambda matrix, *_, **__: 2 * prod(matrix)),
    aten.addmv: lambda added, matrix, *_, **__: 2 * prod(matrix),
    aten.addbmm: _added_matrices,
    aten._addmm_activation: _added_matrices,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
}
"""FLOPs, 2 per MAC, of operators that torch's counter does not know, from the shapes of their
arguments."""


def macs_of(unit: Unit, *, device: torch.device) -> int:
    """Return the MACs of a unit, whose module is on `device`, for one image."""
    counter = FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))
    with torch.inference_mode(mode=False), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        probe = torch.zeros(1, *unit.input_shape, device=device)
        with counter:
            unit.module(probe)
    return int(counter.get_total_flops()) // 2
