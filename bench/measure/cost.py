"""MACs: of each unit, of the dense network, of each image, of any call.

The unit of cost is the multiply-accumulate of convolutions and matrix products, biases left out.
Counts come from torch's own counter; those of a unit must agree with ptflops' `aten` backend on all
operators that it knows. What is neither counted nor free (operators.py) is refused by name. Owns no
evaluation: which units ran is in the trace it is given.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.errors import PluginError
from bench.measure.modes import in_plain_operators
from bench.measure.operators import FORMULAS, Unknown
from bench.networks.gated import GatedResNet
from bench.networks.trunk import Backbone
from bench.networks.unit import DynamicNet, RemovedResidual, Unit

Made = TypeVar("Made")
_CONTRACT = "A unit's module takes one tensor of shape (N, *input_shape)."


def unit_macs(net: DynamicNet) -> dict[str, int]:
    """Return the MACs of each unit at batch 1, in the order of `net.units()`.

    Raises:
        PluginError: a unit cannot be run on its input shape, its MACs cannot be counted in full,
            or two units share a name.
    """
    units = net.units()
    counts = {unit.name: _macs_of(unit) for unit in units}
    if len(counts) != len(units):
        names = [unit.name for unit in units]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise PluginError(
            f"Several units share the name {', '.join(twice)}.",
            hint="Each unit of a network needs a name of its own.",
        )
    return counts


def dense_macs(backbone: Backbone) -> int:
    """Return the MACs of one image through the plain trunk of `backbone`."""
    return sum(unit_macs(GatedResNet(backbone)).values())


def backbone_only(units: Sequence[Unit], unit_macs: Mapping[str, int]) -> list[int]:
    """Return the MACs per column of the trace, with those of role `policy` set to 0."""
    return [0 if unit.role == "policy" else unit_macs[unit.name] for unit in units]


def macs_per_image(executed_nu: Tensor, unit_macs: Sequence[int]) -> Tensor:
    """Return the MACs (N,), float64, of images whose trace (N, U) is given."""
    # Not a matrix product: a sum over float64 columns is exact for whole units up to 2^53.
    macs_u = torch.tensor(list(unit_macs), dtype=torch.float64, device=executed_nu.device)
    return (executed_nu.double() * macs_u).sum(dim=1)


def counted_macs(call: Callable[[], object]) -> int:
    """Return the MACs of whatever `call` really runs.

    Raises:
        PluginError: it runs an operator that is neither counted nor free.
    """
    return counting(call)[0]


def counting(call: Callable[[], Made]) -> tuple[int, Made]:
    """Return the same beside what `call` returns.

    Raises:
        PluginError: it runs an operator that is neither counted nor free.
    """
    macs, made = _macs_by_operator(call)
    return sum(macs.values()), made


def _macs_by_operator(call: Callable[[], Made]) -> tuple[Mapping[Any, int], Made]:
    counter = FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))
    # The counter takes operators apart, so `unknown`, behind it, meets what really runs.
    with in_plain_operators(), Unknown(counter.flop_registry) as unknown, counter:
        made = call()
    if unknown.names:
        raise PluginError(
            f"The MACs of {', '.join(unknown.names)} cannot be counted: neither a known product"
            " nor known to be free. Use convolutions, linear layers, matrix products or attention"
            " of torch, or give it a formula with torch.utils.flop_counter.register_flop_formula."
        )
    flops = counter.get_flop_counts().get("Global", {})
    return {operator: count // 2 for operator, count in flops.items()}, made


def _macs_of(unit: Unit) -> int:
    if isinstance(unit.module, RemovedResidual):
        return 0
    # In inference mode ptflops would meet `linear` whole, which it does not know.
    with torch.inference_mode(mode=False), torch.no_grad():
        # A copy, because ptflops leaves its hooks on the module; on the CPU, to leave no trace in
        # the accelerator's memory.
        module = copy.deepcopy(unit.module).cpu().float().eval()
        probe = torch.ones(1, *unit.input_shape)
        try:
            macs, _ = _macs_by_operator(partial(module, probe))
        except PluginError as error:
            raise PluginError(f"Unit '{unit.name}': {error.message}") from error
        except Exception as error:
            raise PluginError(
                f"Unit '{unit.name}' does not run on an input of shape {tuple(probe.shape)}:"
                f" {error}",
                hint=_CONTRACT,
            ) from error
        # Late: it imports all of torchvision, a second that reading records does without.
        from bench.measure.second_count import KNOWN, macs_by_ptflops

        with in_plain_operators():
            by_ptflops = macs_by_ptflops(module, probe)
    by_torch = sum(count for operator, count in macs.items() if operator in KNOWN)
    if by_ptflops != by_torch:
        given = "no count" if by_ptflops is None else f"{by_ptflops:,} MACs"
        raise PluginError(
            f"The MACs of unit '{unit.name}' are in doubt: ptflops gives {given},"
            f" torch's own counter {by_torch:,}.",
            hint="Build the unit from convolutions, linear layers and matrix products.",
        )
    return sum(macs.values())
