"""Tapes on a CPU, for tests: operators recorded with the addresses of what they gave.

As a CUDA graph does, a replay runs the same operators on the same memory and nothing of Python,
recording leaves no result behind, and whatever would wait for the device or read from the host
fails while recording.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Result = TypeVar("Result")
_WAITS = ("_local_scalar_dense", "nonzero", "lift_fresh", "is_nonzero", "item", "masked_select")


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in _WAITS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        if name == "index" and any(is_tensor(t) and t.dtype == torch.bool for t in args[1]):
            raise RuntimeError("operation not permitted when stream is capturing: nonzero")
        for value, argument in zip(args, func._schema.arguments, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.before.append((value, value.clone()))
        out = func(*args, **kwargs)
        self.steps.append((func, args, kwargs, [t for t in tree_leaves(out) if is_tensor(t)]))
        return out

    def forget(self) -> None:
        """Leave memory as if nothing had run; what was made meanwhile holds no values."""
        inputs = {id(value) for value, _ in self.before}
        for _, args, kwargs, outs in self.steps:
            given = {
                t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if is_tensor(t)
            }
            for out in outs:
                fresh = out.untyped_storage().data_ptr() not in given and id(out) not in inputs
                if fresh and out.is_floating_point():
                    out.fill_(torch.nan)
        for value, kept in reversed(self.before):
            value.copy_(kept)

    def replay(self) -> None:
        for func, args, kwargs, outs in self.steps:
            again = [t for t in tree_leaves(func(*args, **kwargs)) if is_tensor(t)]
            for out, value in zip(outs, again, strict=True):
                if out.data_ptr() != value.data_ptr():
                    out.copy_(value)


def is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def record(
    work: Callable[[], Result], *, warm: Callable[[], object] | None = None
) -> tuple[Callable[[], None], Result]:
    (warm or work)()
    recorder = _Recorder()
    with recorder:
        result = work()
    recorder.forget()
    return recorder.replay, result
