"""Recording what a module computes as a graph of torch operators, without a word of warning.

Owns which warnings are known and harmless here: torch has announced the end of TorchScript, which
is what two of the formats are; and that a trace may hold only for the images it was made with is
what the comparison with the run is for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from operator import floordiv, mod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DEPRECATED = r"`torch\.jit\.\w+` is (deprecated|not supported)"


def _tracer_warning() -> type[Warning]:
    jit: Any = torch.jit
    found: type[Warning] = jit.TracerWarning
    return found


@contextmanager
def deprecation_known() -> Iterator[None]:
    """Keep quiet about the end of torch.jit, and about nothing else."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", _DEPRECATED, category)
        yield


class _FieldsByKernel(TorchFunctionMode):
    """Writes pooling onto a grid of equal fields as pooling with that kernel: ONNX has no other.

    Onto a single field it stays what it is.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is F.adaptive_avg_pool2d and len(args) == 2 and not given:
            x_nchw, fields = args
            wanted = (fields, fields) if isinstance(fields, int) else tuple(fields)
            sides = tuple(map(int, x_nchw.shape[2:]))
            if wanted != (1, 1) and None not in wanted and not any(map(mod, sides, wanted)):
                return F.avg_pool2d(x_nchw, tuple(map(floordiv, sides, wanted)))
        return func(*args, **given)


def traced(module: nn.Module, *examples: Tensor) -> Any:
    """Return the graph of `module`; calls of scripted modules in it stay calls."""
    with deprecation_known(), torch.no_grad(), _FieldsByKernel():
        warnings.filterwarnings("ignore", category=_tracer_warning())
        return torch.jit.trace(module, examples, check_trace=False)  # type: ignore[no-untyped-call]


class _Hidden(nn.Module):
    """Keeps the weights of a module from the trace, which then takes them for constants. Scripted
    modules in it stay in sight: only what is in sight can be called."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._run = module.forward
        self.scripted = nn.ModuleList(_scripted_in(module))

    def forward(self, x: Tensor) -> Any:
        return self._run(x)


def traced_with_constants(module: nn.Module, example: Tensor) -> Any:
    """Return the graph of `module` in eval mode, with its weights as constants: reading them costs
    nothing. None may require a gradient. Calls of scripted modules in it stay calls."""
    return traced(_Hidden(module.eval()).eval(), example)


def _scripted_in(module: nn.Module) -> Iterator[nn.Module]:
    jit: Any = torch.jit
    for child in module.children():
        if isinstance(child, jit.ScriptModule):
            yield child
        else:
            yield from _scripted_in(child)


def scripted(module: nn.Module) -> Any:
    """Return the module compiled: what is a branch in Python is a branch in the graph."""
    with deprecation_known():
        return torch.jit.script(module)


def frozen(graph: Any) -> Any:
    """Return the compiled module with its weights as constants."""
    with deprecation_known(), torch.no_grad():
        return torch.jit.freeze(graph)
