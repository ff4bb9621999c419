"""native: a network as one call of C++ per batch, on one CPU thread.

What it can run is decided by the network's operators (program.py), never by its class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.networks.unit import DynamicNet
from bench.runtimes.contract import Run, Runtime
from bench.runtimes.eager import folded_copy
from bench.runtimes.native.build import missing, to_be_compiled
from bench.runtimes.native.encoding import encoded
from bench.runtimes.native.fusing import fused
from bench.runtimes.native.library import NativeProgram
from bench.runtimes.program import program_of


class Native(Runtime):
    """The whole network in C++, compiled on this machine."""

    name = "native"
    summary = "the whole network in one call of C++, one CPU thread; needs a C++ compiler"

    def refuses(self, net: DynamicNet, device: torch.device, threads: int) -> str | None:
        if device.type != "cpu":
            return f"the native runtime runs on a CPU, not on {device.type}"
        if threads != 1:
            return f"the native runtime has one thread, not {threads}"
        return missing() or None

    def delay(self) -> str:
        return "compiling for this machine, once: some ten seconds" if to_be_compiled() else ""

    def prepare(self, net: DynamicNet, example_nchw: Tensor) -> Run:
        program = program_of(folded_copy(net, example_nchw), example_nchw)
        outs = program.logits.shape[-1], program.executed.shape[-1]
        return NativeProgram(encoded(fused(program)), tuple(example_nchw.shape[1:]), outs)
