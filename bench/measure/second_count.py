"""The MACs of a module by ptflops: the second counter that the first is held against."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import torch
from ptflops import get_model_complexity_info
from ptflops.aten_ops import ATEN_OPS_MAPPING as KNOWN
from ptflops.aten_ops import addmm_flop, conv_flop
from torch import Tensor, nn

__all__ = ["KNOWN", "macs_by_ptflops"]


def macs_by_ptflops(module: nn.Module, probe: Tensor) -> int | None:
    """Return the MACs of a module at one input (1, ...) without biases; None if ptflops fails."""

    def constructor(shape: tuple[int, ...]) -> Tensor:
        return probe

    silence = io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        macs, params = get_model_complexity_info(
            module,
            tuple(probe.shape[1:]),
            backend="aten",
            input_constructor=constructor,
            as_strings=False,
            print_per_layer_stat=False,
            verbose=False,
            ost=silence,
            custom_modules_hooks=_WITHOUT_BIAS,
        )
    return None if macs is None or params is None else int(macs)


def _addmm_macs(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    return int(addmm_flop([None, *inputs[1:]], outputs))


def _convolution_macs(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    return int(conv_flop([*inputs[:2], None, *inputs[3:9]], outputs))


# Dropping biases here, not from the module, also reaches those of recurrent cells.
_WITHOUT_BIAS = {
    torch.ops.aten.addmm: _addmm_macs,
    torch.ops.aten.convolution: _convolution_macs,
    torch.ops.aten._convolution: _convolution_macs,
}
