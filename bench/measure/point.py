"""From an Evaluation to the record of an operating point: MACs, rates, masks, parameters.

Owns the arithmetic; runs no network and touches no disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from bench.measure.accuracy import Evaluation, pack_bits
from bench.measure.cost import backbone_only, macs_per_image
from bench.networks.unit import DynamicNet, Unit
from bench.records.record import LatencyCell, PointRecord


def point_record(
    name: str,
    evaluation: Evaluation,
    *,
    net: DynamicNet,
    unit_macs: Mapping[str, int],
    dense_macs: int,
    arrays_file: str,
    latency: tuple[LatencyCell, ...] = (),
    equivalence: str = "",
) -> PointRecord:
    """Return the record of the point `name`: `net` as evaluated, against a dense cost in MACs."""
    units, executed_nu = net.units(), evaluation.executed_nu
    macs_n = macs_per_image(executed_nu, [unit_macs[unit.name] for unit in units])
    backbone_n = macs_per_image(executed_nu, backbone_only(units, unit_macs))
    rates = block_rates(units, executed_nu)
    gated = tuple(unit.name for unit in units if unit.role == "block" and unit.gated)
    dead = tuple(block for block, rate in rates.items() if rate == 0)
    return PointRecord(
        name=name,
        accuracy=evaluation.accuracy,
        correct=evaluation.correct,
        macs=macs_n.mean().item(),
        macs_std=macs_n.std(correction=0).item(),
        nflops=macs_n.mean().item() / dense_macs,
        nflops_backbone=backbone_n.mean().item() / dense_macs,
        params=parameters(net),
        params_inference=parameters(net.inference_net(dead_blocks=frozenset(dead))),
        block_rates=rates,
        gated_blocks=gated,
        dead_blocks=dead,
        distinct_masks=_distinct_rows(_block_trace(units, executed_nu)),
        mean_drop=1 - sum(rates[block] for block in gated) / len(gated) if gated else 0.0,
        arrays_file=arrays_file,
        latency=latency,
        equivalence=equivalence,
    )


def mean_macs(evaluation: Evaluation, *, net: DynamicNet, unit_macs: Mapping[str, int]) -> float:
    """Return the mean MACs per image, policy included."""
    macs_u = [unit_macs[unit.name] for unit in net.units()]
    return macs_per_image(evaluation.executed_nu, macs_u).mean().item()


def point_arrays(
    evaluation: Evaluation, *, net: DynamicNet, unit_macs: Mapping[str, int]
) -> dict[str, npt.NDArray[Any]]:
    """Return what `arrays_file` holds: correct_bits, executed_nu (N, U), macs_n and loss_n (N,)."""
    macs_u = [unit_macs[unit.name] for unit in net.units()]
    return {
        "correct_bits": pack_bits(evaluation.correct_n),
        "executed_nu": evaluation.executed_nu.numpy(),
        "macs_n": macs_per_image(evaluation.executed_nu, macs_u).numpy(),
        "loss_n": evaluation.loss_n.numpy(),
    }


def block_rates(units: Sequence[Unit], executed_nu: Tensor) -> dict[str, float]:
    """Return how much of each block ran on average over the images, by the block's name."""
    blocks = [unit.name for unit in units if unit.role == "block"]
    means: list[float] = _block_trace(units, executed_nu).double().mean(dim=0).tolist()
    return dict(zip(blocks, means, strict=True))


def parameters(net: nn.Module) -> int:
    """Return the number of parameters of `net`."""
    return sum(parameter.numel() for parameter in net.parameters())


def _distinct_rows(trace_nb: Tensor) -> int:
    return len(np.unique(trace_nb.numpy(), axis=0))


def _block_trace(units: Sequence[Unit], executed_nu: Tensor) -> Tensor:
    return executed_nu[:, [column for column, unit in enumerate(units) if unit.role == "block"]]
