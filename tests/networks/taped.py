"""Tapes on a CPU, for tests: operators recorded with the addresses of what they gave.

As a CUDA graph does, a replay runs the same operators on the same memory and nothing of Python,
recording leaves no result behind, and whatever would wait for the device or read from the host
fails while recording. What the result does not hold is lost before the next tape runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Result = TypeVar("Result")
_WAITS = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "lift_fresh", "masked_select"}
_NORMS = {"native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit"}


class _Recorder(TorchDispatchMode):
    all: ClassVar[WeakSet[_Recorder]] = WeakSet()

    def __init__(self) -> None:
        super().__init__()
        self.loose: list[Tensor] = []
        self.steps: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.before: list[tuple[Tensor, Tensor]] = []
        self.draws = torch.get_rng_state()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        by_bools = name == "index" and any(
            tensor.dtype == torch.bool for tensor in tensors(args[1])
        )
        if name in _WAITS or by_bools:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        self.before += [(tensor, tensor.clone()) for tensor in _written(func, name, args)]
        out = func(*args, **kwargs)
        self.steps.append((func, args, kwargs, list(tensors(out))))
        return out

    @torch.no_grad()
    def forget(self, result: object) -> None:
        """Leave memory as if nothing had run; what was made meanwhile holds no values."""
        held = {tensor.untyped_storage().data_ptr() for tensor in _reachable(result)}
        for _, args, kwargs, outs in self.steps:
            given = {tensor.untyped_storage().data_ptr() for tensor in tensors((args, kwargs))}
            for out in outs:
                address = out.untyped_storage().data_ptr()
                if address not in given and out.is_floating_point():
                    out.fill_(torch.nan)
                    self.loose += [out] * (address not in held)
        for tensor, kept in reversed(self.before):
            tensor.copy_(kept)
        torch.set_rng_state(self.draws)
        self.all.add(self)

    @torch.no_grad()
    def replay(self) -> None:
        for other in self.all:
            for tensor in other.loose if other is not self else ():
                tensor.fill_(torch.nan)
        for func, args, kwargs, outs in self.steps:
            again = tensors(func(*args, **kwargs))
            for out, value in zip(outs, again, strict=True):
                if out.data_ptr() != value.data_ptr():
                    out.copy_(value)


def _written(func: Any, name: str, args: Any) -> Iterator[Tensor]:
    if name in _NORMS:
        yield from tensors(args[3:5])  # running statistics, of which the schema says nothing
    for value, argument in zip(args, func._schema.arguments, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors(value)


def _reachable(thing: object) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from _reachable(part)
    elif hasattr(thing, "__dict__") and not isinstance(thing, nn.Module):
        yield from _reachable(list(vars(thing).values()))


def tensors(tree: object) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples and dicts."""
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def record(
    work: Callable[[], Result], *, warm: Callable[[], object] | None = None
) -> tuple[Callable[[], None], Result]:
    """Do what `Record` says, on a CPU."""
    (warm or work)()
    recorder = _Recorder()
    result = None
    try:
        with recorder:
            result = work()
    finally:
        recorder.forget(result)
    return recorder.replay, result
