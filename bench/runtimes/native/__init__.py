"""native: a network as one call of C++ per batch, on one CPU thread.

What it can run is decided by the network's operators (program.py), never by its class.
"""

from __future__ import annotations

import ctypes
import weakref

import torch
from torch import Tensor

from bench.errors import Unsupported
from bench.networks.unit import DynamicNet
from bench.runtimes.contract import Run, Runtime
from bench.runtimes.eager import folded_copy
from bench.runtimes.native.build import library, missing, to_be_compiled
from bench.runtimes.native.encoding import Encoded, encoded
from bench.runtimes.native.fusing import fused
from bench.runtimes.program import program_of

_ERROR_BYTES = 200


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


class NativeProgram:
    """A program of C++, called with batches of images (N, C, H, W)."""

    def __init__(self, program: Encoded, shape_chw: tuple[int, ...], outs: tuple[int, int]) -> None:
        found = library()
        if found.loaded is None:
            raise Unsupported(f"The native runtime cannot be compiled here: {found.reason}.")
        self._library, self._shape, self._outs = found.loaded, shape_chw, outs
        self.work_bytes = program.work_bytes
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        words, factors = program.words, program.factors
        self._handle = found.loaded.skipbench_load(
            *(words.ctypes.data, len(words), factors.ctypes.data, len(factors)),
            *(program.constants, len(program.constants), program.work_bytes),
            *(ctypes.addressof(error), _ERROR_BYTES),
        )
        if not self._handle:
            raise Unsupported(f"The native runtime refuses the program: {error.value.decode()}.")
        weakref.finalize(self, found.loaded.skipbench_free, self._handle)

    def __call__(self, x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, K) and executed (N, U).

        Raises:
            ValueError: these are not images of the shape and type that the program takes.
        """
        if x_nchw.device.type != "cpu" or x_nchw.dtype != torch.float32:
            raise ValueError(f"float32 on a CPU is expected, not {x_nchw.dtype} on {x_nchw.device}")
        if x_nchw.dim() != 4 or tuple(x_nchw.shape[1:]) != self._shape:
            raise ValueError(f"images {self._shape} are expected, not {tuple(x_nchw.shape[1:])}")
        count = len(x_nchw)
        images = x_nchw.permute(0, 2, 3, 1).contiguous()
        logits, executed = (torch.empty(count, size) for size in self._outs)
        failed = self._library.skipbench_run(
            *(self._handle, images.data_ptr(), images.numel(), count),
            *(logits.data_ptr(), logits.numel(), executed.data_ptr(), executed.numel()),
        )
        if failed:
            raise ValueError(f"the native runtime refused {count} images (status {failed})")
        return logits, executed
