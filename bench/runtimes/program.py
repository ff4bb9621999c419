"""A network as a program: instructions on the tensors of one image, and branches.

A network is recorded while it runs once, operator by operator, so that its parts may be written in
any Python: what can be run is decided by its operators, never by its class. Decisions are told to
the recorder as branches, of which it records both sides (`DynamicNet.run`). What depends on
no image becomes a constant. Which instructions there are, operators.py says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from bench.errors import Unsupported
from bench.networks.splitting import Side
from bench.networks.unit import DynamicNet
from bench.runtimes.instructions import (
    Instruction,
    InstructionWriter,
    Program,
    Region,
    Value,
    without_dead,
)
from bench.runtimes.operators import CONSTANT, OPERATORS, Call


def program_of(net: DynamicNet, example_nchw: Tensor) -> Program:
    """Record a network in eval mode; batch norms are best folded before.

    Raises:
        Unsupported: it uses an operator without an instruction, or does not tell its decisions.
    """
    # In inference mode composite operators would be seen whole; attention is seen as its products.
    with torch.inference_mode(mode=False), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        recorder = Recorder()
        image = example_nchw[:1].clone(memory_format=torch.contiguous_format)
        with recorder:
            given = recorder.input(image)
            outs = net.run(image, recorder.branch)
        write = recorder.writer
        logits, executed = (write.cast(recorder.value(out), torch.float32) for out in outs)
    return Program(given, without_dead(write.code, (logits, executed)), logits, executed)


class _Write(NamedTuple):
    """Memory that was written in place, and the tensors known to hold what is there since."""

    begin: int
    end: int
    current: set[int]


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down each operator that reads what depends on the image."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.writer = InstructionWriter()
        self._values: dict[int, Value] = {}
        self._constants: dict[int, Value] = {}
        self._kept: list[Any] = []  # ids and addresses must not come again
        self._writes: list[_Write] = []
        self._unreadable: set[int] = set()

    def input(self, x: Tensor) -> Value:
        """Take `x` as what everything depends on."""
        return self._name(x, Value(tuple(x.shape), x.dtype))

    def value(self, x: Tensor) -> Value:
        """Return the value of a tensor, a constant where it depends on no image.

        Raises:
            Unsupported: it cannot be known which numbers it holds.
        """
        stale = any(id(x) not in write.current for write in self._writes_over(x))
        if stale or id(x) in self._unreadable:
            raise Unsupported("no instruction for writing into a part of a tensor that is read")
        if id(x) in self._values:
            return self._values[id(x)]
        if id(x) not in self._constants:
            self._kept.append(x)
            # A copy, because the network may go on to write to it.
            self._constants[id(x)] = Value(tuple(x.shape), x.dtype, x.detach().clone())
        return self._constants[id(x)]

    def branch(
        self, condition: Tensor, then: Side, otherwise: Side, *given: Tensor
    ) -> tuple[Tensor, ...]:
        """Record both sides; the outputs stand for either, or for some positions of each."""
        chosen = self.value(condition)
        if chosen.constant is not None and condition.ndim == 1:
            return then(*given) if bool(condition) else otherwise(*given)
        regions, found = [], []
        for side in (then, otherwise):
            with self._side() as code:
                found.append(side(*given))
                regions.append(Region(tuple(code), tuple(map(self.value, found[-1]))))
        joined = tuple(Value(value.shape, value.dtype) for value in regions[0].outs)
        if [(v.shape, v.dtype) for v in joined] != [(v.shape, v.dtype) for v in regions[1].outs]:
            raise Unsupported("both sides of a branch must give tensors of the same shapes")
        self.writer.code.append(Instruction("branch", (chosen,), joined, {}, tuple(regions)))
        outs = tuple(torch.zeros_like(tensor) for tensor in found[0])
        for out, value in zip(outs, joined, strict=True):
            self._name(out, value)
        return outs

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise Unsupported(f"no instruction for {func}: it draws at random")
        depends = any(id(tensor) in self._values for tensor in given)
        if depends and _name(func) not in OPERATORS:
            with self:  # as torch makes it of simpler operators
                out = decomposition_table.get(func, func.decompose)(*args, **kwargs)
            if out is not NotImplemented:
                return out
        # Before it runs: it may write to what it reads.
        values: Any = tree_map_only(Tensor, self.value, (args, kwargs)) if depends else None
        out = func(*args, **kwargs)
        self._kept += [given, out]
        if values is not None:
            self._record(func, args[0], values[0], values[1], out)
        elif func._schema.is_mutable:
            self._constants.pop(id(args[0]), None)
        return out

    def _record(
        self, func: Any, first: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        """Write down a call whose tensors are values already."""
        name, writes = _name(func), func._schema.is_mutable
        if name in CONSTANT:
            return
        operator = OPERATORS.get(name)
        if operator is None:
            raise Unsupported(f"no instruction for the operator {func}")
        call = Call(self.writer, str(func), first, _by_name(func, args, kwargs), out)
        found = operator(call)
        outs = out if isinstance(out, list | tuple) else (out,)
        for tensor, value in zip(outs, found if isinstance(found, list) else [found], strict=False):
            if writes:
                self._writes.append(_Write(*_memory(tensor), set()))
            self._name(tensor, value)
        if isinstance(found, Value):  # further outputs, such as places of maxima
            self._unreadable |= {id(tensor) for tensor in outs[1:]}

    def _name(self, x: Tensor, value: Value) -> Value:
        self._kept.append(x)
        self._values[id(x)] = value
        for write in self._writes_over(x):
            write.current.add(id(x))
        return value

    def _writes_over(self, x: Tensor) -> list[_Write]:
        begin, end = _memory(x)
        return [write for write in self._writes if write.begin < end and begin < write.end]

    @contextmanager
    def _side(self) -> Iterator[list[Instruction]]:
        """Record into a list of its own; what is known there is not known behind it."""
        values, before = dict(self._values), self.writer.code
        self.writer.code = []
        yield self.writer.code
        self.writer.code = before
        changed = [key for key, value in values.items() if self._values[key] is not value]
        if changed:
            raise Unsupported("no instruction for writing, in a branch, to a tensor outside of it")
        self._unreadable |= self._values.keys() - values.keys()
        self._values = values


def _name(func: Any) -> str:
    """Return the name of an operator, the same for the form that writes to what it reads."""
    name: str = func._schema.name.removeprefix("aten::")
    name = name if name in OPERATORS else name.removeprefix("prims::")
    return name.removesuffix("_") if func._schema.is_mutable else name


def _memory(x: Tensor) -> tuple[int, int]:
    """Return where the numbers of a tensor lie, in bytes: from the first to behind the last."""
    pairs = zip(x.shape, x.stride(), strict=True)
    last = sum((size - 1) * stride for size, stride in pairs) if x.numel() else -1
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


def _by_name(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an operator by name, defaults included."""
    named = {argument.name: argument.default_value for argument in func._schema.arguments}
    named |= dict(zip(named, args, strict=False))
    return named | dict(kwargs)
