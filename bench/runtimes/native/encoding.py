"""From a program to the instructions that program.h describes, flat: a branch is a jump.

Owns the numbers of instructions and kinds, which are those of program.h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.errors import Unsupported
from bench.runtimes.instructions import Instruction, Program, Region, Value, walk
from bench.runtimes.native.fusing import VECTOR, is_fast
from bench.runtimes.native.memory import (
    TYPES,
    Constants,
    MemoryLayout,
    Storage,
    dense_layout,
    map_layout,
    merged,
    placed,
    split,
)

OPS = (
    *("copy", "fill", "unary", "binary", "where", "muladd", "reduce", "product", "top", "pool"),
    *("convolution", "convolution3", "sparse_block", "branch", "jump"),
)
KINDS = {
    "unary": (
        *("relu", "leaky_relu", "sigmoid", "tanh", "exp", "log", "neg", "abs", "sqrt", "rsqrt"),
        *("erf", "gelu", "not", "floor"),
    ),
    "binary": (
        *("add", "sub", "mul", "div", "maximum", "minimum", "and", "or", "xor", "shl", "shr"),
        *("lt", "le", "gt", "ge", "eq", "ne"),
    ),
    "reduce": ("sum", "mean", "max", "min", "any", "all", "prod", "argmax"),
}
_VIEWS = frozenset({"select", "slice", "reshape", "permute", "expand", "bits"})
_MOST_BORDER, _MOST_DIMS = 8, 4


class Encoded(NamedTuple):
    """A program as C++ takes it: words, a factor for each instruction, constants, and the bytes
    that it works in."""

    words: npt.NDArray[np.int64]
    factors: npt.NDArray[np.float64]
    constants: bytes
    work_bytes: int


@dataclass(slots=True)
class _Line:
    op: str
    operands: Sequence[MemoryLayout]
    numbers: list[int] = field(default_factory=list)
    factor: float = 0.0


def encoded(program: Program) -> Encoded:
    """Return a fused program for C++.

    Raises:
        Unsupported: C++ has no form of one of its instructions.
    """
    return _Encoder(program).all(program)


class _Encoder:
    def __init__(self, program: Program) -> None:
        convolutions = (one for one in walk(program.code) if one.op == "convolution")
        self._border = max([1, *(side for one in convolutions for side in one.settings["padding"])])
        if self._border > _MOST_BORDER:
            raise Unsupported(f"a padding of more than {_MOST_BORDER}")
        self._layouts: dict[int, MemoryLayout] = {}
        self._wanted: dict[int, MemoryLayout] = {}  # where a side of a branch is to leave a value
        self._constants = Constants()
        self._packed: dict[int, MemoryLayout] = {}
        self._lines: list[_Line] = []
        self._storages: list[Storage] = []

    def all(self, program: Program) -> Encoded:
        image = self._out(program.image)
        image.storage.touch(0)
        self._region(program.code)
        ends = [image.in_rows(), self._row(program.logits), self._row(program.executed)]
        for end in ends:
            end.storage.touch(len(self._lines))
        used = [storage for storage in self._storages if storage.first >= 0]
        return self._written(ends, placed(used))

    def _written(self, ends: Sequence[MemoryLayout], work_bytes: int) -> Encoded:
        operands: dict[tuple[int, ...], int] = {}

        def number(operand: MemoryLayout) -> int:
            return operands.setdefault(operand.words(), len(operands))

        tail = [number(end) for end in ends]
        for line in self._lines:
            tail += [OPS.index(line.op), len(line.operands), *map(number, line.operands)]
            tail += [len(line.numbers), *line.numbers]
        table = [word for row in operands for word in row]
        head = [len(operands), len(self._lines)]
        return Encoded(
            np.asarray([*head, *table, *tail], dtype=np.int64),
            np.asarray([line.factor for line in self._lines], dtype=np.float64),
            b"".join(self._constants.parts),
            work_bytes,
        )

    def _region(self, code: Sequence[Instruction]) -> None:
        for one in code:
            if one.op in _VIEWS:
                self._layouts[id(one.outs[0])] = self._view(one)
            else:
                getattr(self, f"_{one.op}", self._by_number)(one)

    def _emit(
        self,
        op: str,
        operands: Sequence[MemoryLayout],
        numbers: Sequence[int] = (),
        factor: float = 0.0,
    ) -> _Line:
        for operand in operands:
            operand.storage.touch(len(self._lines))
        line = _Line(op, operands, list(numbers), factor)
        self._lines.append(line)
        return line

    def _elementwise(
        self,
        op: str,
        layouts: Sequence[MemoryLayout],
        numbers: Sequence[int] = (),
        factor: float = 0.0,
    ) -> None:
        """Emit what is done number by number; all operands get the sizes of the first."""
        same = [layouts[0], *(layout.expanded(layouts[0].sizes) for layout in layouts[1:])]
        dims = merged(same)
        if len(dims) > _MOST_DIMS:
            raise Unsupported(f"tensors of {len(dims)} dimensions")
        sizes = tuple(size for size, _ in dims)
        operands = [
            layout._replace(sizes=sizes, strides=tuple(steps[n] for _, steps in dims), border=0)
            for n, layout in enumerate(same)
        ]
        self._emit(op, operands, numbers, factor)

    def _copy(self, given: MemoryLayout, to: MemoryLayout) -> None:
        self._elementwise("copy", [to, given])

    # Where values lie

    def _read(self, value: Value) -> MemoryLayout:
        if id(value) not in self._layouts:
            assert value.constant is not None
            self._layouts[id(value)] = self._constants.add(value.constant)
        return self._layouts[id(value)]

    def _out(self, value: Value, *, dense: bool = False) -> MemoryLayout:
        wanted = self._wanted.get(id(value))
        if wanted is None or (dense and not wanted.is_dense):
            wanted = self._fresh(value.shape, value.dtype, dense=dense)
        self._layouts[id(value)] = wanted
        return wanted

    def _fresh(
        self, shape: Sequence[int], dtype: torch.dtype, *, dense: bool = False
    ) -> MemoryLayout:
        if dtype not in TYPES:
            raise Unsupported(f"numbers of the type {dtype}")
        is_map = len(shape) == 4 and shape[0] == 1 and dtype == torch.float32
        if is_map and shape[2] * shape[3] > 1 and not dense:
            return self._kept(map_layout(shape, self._border))
        return self._kept(dense_layout(shape, dtype))

    def _kept(self, layout: MemoryLayout) -> MemoryLayout:
        self._storages.append(layout.storage)
        return layout

    def _dense(self, layout: MemoryLayout) -> MemoryLayout:
        if layout.is_dense:
            return layout
        copied = self._fresh(layout.sizes, layout.dtype, dense=True)
        self._copy(layout, copied)
        return copied

    def _map(self, value: Value) -> MemoryLayout:
        """Return a map that a convolution can read, within a border."""
        layout = self._read(value)
        if layout.border:
            return layout
        _expect(len(value.shape) == 4 and value.dtype == torch.float32, "a convolution", value)
        copied = self._kept(map_layout(value.shape, self._border))
        self._copy(layout, copied)
        return copied

    def _row(self, value: Value) -> MemoryLayout:
        return self._dense(self._read(value)).flat()

    def _view(self, one: Instruction) -> MemoryLayout:
        settings, shape = one.settings, one.outs[0].shape
        layout = self._read(one.ins[0])
        meta = layout.on_meta()
        match one.op:
            case "bits":
                return layout._replace(dtype=one.outs[0].dtype, border=0)
            case "select":
                return layout.like(meta.select(settings["dim"], settings["index"]))
            case "permute":
                return layout.like(meta.permute(settings["dims"]))
            case "expand":
                return layout.expanded(shape)
            case "slice":
                dim, start, step = settings["dim"], settings["start"], settings["step"]
                index = [slice(None)] * len(layout.sizes)
                index[dim] = slice(start, start + (shape[dim] - 1) * step + 1, step)
                return layout.like(meta[tuple(index)])
        if layout.sizes == shape:
            return layout
        try:
            return layout.like(meta.view(shape))
        except RuntimeError:  # the numbers have to be laid out anew
            dense = self._dense(layout)
            return dense.like(dense.on_meta().view(shape))

    # Instructions: each by the method of its name, all others number by number

    def _by_number(self, one: Instruction) -> None:
        layouts = [self._read(value) for value in one.ins]
        kind = one.settings.get("kind")
        numbers = [] if kind is None else [KINDS[one.op].index(kind)]
        op = "copy" if one.op == "cast" else one.op
        self._elementwise(
            op, [self._out(one.outs[0]), *layouts], numbers, one.settings.get("slope", 0.0)
        )

    def _branch(self, one: Instruction) -> None:
        if one.ins[0].shape != (1,):
            raise Unsupported(
                "a residual at some positions other than two 3x3 convolutions with a ReLU behind"
                f" each and a multiple of {VECTOR} channels"
            )
        jump = self._emit("branch", [self._read(one.ins[0]).flat()], [0])
        then, otherwise = one.regions
        joined = [self._out(out) for out in one.outs]
        self._side(then, joined)
        leave = self._emit("jump", [], [0])
        jump.numbers = [len(self._lines)]
        self._side(otherwise, joined)
        leave.numbers = [len(self._lines)]

    def _side(self, side: Region, joined: Sequence[MemoryLayout]) -> None:
        """Run one side and leave what it gives in `joined`; what it computes, at once."""
        for out, to in zip(side.outs, joined, strict=True):
            self._wanted.setdefault(id(out), to)
        self._region(side.code)
        for out, to in zip(side.outs, joined, strict=True):
            given = self._read(out)
            if given.storage is not to.storage:
                self._copy(given, to)
            else:
                to.storage.touch(len(self._lines))

    def _reduce(self, one: Instruction) -> None:
        value, kind, dims = one.ins[0], one.settings["kind"], one.settings["dims"]
        _expect(value.dtype != torch.int32 and 0 not in value.shape, "a reduction", value)
        layout = self._read(value)
        kept, over = split(layout, dims)
        if len(kept) > 1 or len(over) > 3:
            kept, over = split(self._dense(layout), dims)
            layout = self._dense(layout)
        if len(kept) > 1 or len(over) > 3 or (kind == "argmax" and len(over) > 1):
            raise Unsupported(f"a reduction of dimensions {dims} of {value.shape}")
        rows = [*(kept or [(1, (0,))]), *[(1, (0,))] * (3 - len(over)), *over]
        sizes, strides = tuple(size for size, _ in rows), tuple(step for _, (step,) in rows)
        given = layout._replace(sizes=sizes, strides=strides, border=0)
        out = self._out(one.outs[0], dense=True)
        self._emit("reduce", [out.flat(), given], [KINDS["reduce"].index(kind)])

    def _product(self, one: Instruction) -> None:
        left, right = (self._read(value) for value in one.ins)
        if one.ins[1].constant is not None:
            right = self._constants.add(one.ins[1].constant.contiguous())
        right = right if right.strides[-1] == 1 else self._dense(right)
        out = self._out(one.outs[0], dense=True)
        stack = out.sizes[:-2]
        parts = [part.expanded((*stack, *part.sizes[-2:])) for part in (out, left, right)]
        for place in np.ndindex(*stack):
            self._emit("product", [part.like(part.on_meta()[place]) for part in parts])

    def _top(self, one: Instruction) -> None:
        _expect(one.ins[0].dtype.is_floating_point, "the greatest numbers", one.ins[0])
        if np.prod(one.ins[0].shape[:-1], dtype=int) != 1:
            raise Unsupported("the greatest numbers of several rows")
        given = self._row(one.ins[0])
        self._emit("top", [self._out(one.outs[0]).flat(), given])

    def _cat(self, one: Instruction) -> None:
        parts = [self._read(part) for part in one.ins]
        out, dim, start = self._out(one.outs[0]), one.settings["dim"], 0
        for part in parts:
            to = out.like(out.on_meta().narrow(dim, start, part.sizes[dim]))
            self._copy(part, to)
            start += part.sizes[dim]

    def _pad(self, one: Instruction) -> None:
        given, out = self._read(one.ins[0]), self._out(one.outs[0])
        self._elementwise("fill", [out], factor=one.settings["number"])
        inner = out.on_meta()
        for dim, before in enumerate(one.settings["before"]):
            inner = inner.narrow(dim, before, given.sizes[dim])
        self._copy(given, out.like(inner))

    def _pool(self, one: Instruction) -> None:
        _expect(one.ins[0].dtype == torch.float32, "pooling", one.ins[0])
        given, out = self._read(one.ins[0]), self._out(one.outs[0])
        windows = [*one.settings["size"], *one.settings["stride"], *one.settings["padding"], 1, 1]
        numbers = [KINDS["reduce"].index(one.settings["kind"]), *windows]
        self._emit("pool", [out.in_rows(), given.in_rows()], numbers)

    def _convolution(self, one: Instruction) -> None:
        settings = one.settings
        adds, weight = settings.get("adds", False), one.ins[1]
        fast = is_fast(one)
        given = self._map(one.ins[0])
        bias = one.ins[2] if len(one.ins) == 3 + adds else None
        weights = [self._weight(weight, settings["groups"], fast), self._bias(bias, weight)]
        added = [self._read(one.ins[-1])] if adds else []
        if added and added[0].strides[1] != 1:
            added = [self._map(one.ins[-1])]
        out = self._out(one.outs[0])
        windows = [*weight.shape[2:], *settings["stride"], *settings["padding"]]
        least = 0.0 if settings.get("relu") else -np.inf
        operands = [out.in_rows(), given.in_rows(), *weights, *(part.in_rows() for part in added)]
        op = "convolution3" if fast else "convolution"
        self._emit(op, operands, [0, *windows, *settings["dilation"], settings["groups"]], least)

    def _sparse_block(self, one: Instruction) -> None:
        skipped, mask, state, shortcut, w1, b1, w2, b2 = one.ins
        given, chosen, read = self._read(skipped), self._read(mask), self._map(state)
        added = self._map(shortcut)
        out = self._out(one.outs[0])
        self._copy(given, out)
        hidden = self._kept(map_layout((1, w1.shape[0], *mask.shape[2:]), self._border))
        weights = [self._weight(w1, 1, True), self._bias(b1, w1)]
        weights += [self._weight(w2, 1, True), self._bias(b2, w2)]
        maps = [part.in_rows() for part in (out, chosen, hidden, read, added)]
        self._emit("sparse_block", [*maps, *weights], [one.settings["stride"]])

    def _weight(self, value: Value, groups: int, fast: bool) -> MemoryLayout:
        return self._once(value, lambda weight: _packed(weight, groups, fast=fast))

    def _bias(self, value: Value | None, weight: Value) -> MemoryLayout:
        if value is None:
            return self._constants.add(torch.zeros(weight.shape[0])).flat()
        return self._once(value, lambda bias: bias)

    def _once(self, value: Value, pack: Callable[[Tensor], Tensor]) -> MemoryLayout:
        if id(value) not in self._packed:
            _expect(value.dtype == torch.float32, "a convolution", value)
            assert value.constant is not None
            self._packed[id(value)] = self._constants.add(pack(value.constant)).flat()
        return self._packed[id(value)]


def _packed(weight: Tensor, groups: int, *, fast: bool) -> Tensor:
    """Return (groups, kh, kw, C_in / groups, C_out / groups) of a weight (C_out, C_in / groups, kh,
    kw); for a fast convolution (C_out / 16, 3, 3, C_in, 16)."""
    if fast:
        rows = weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0] // VECTOR, VECTOR)
        return rows.transpose(0, 1)
    return weight.reshape(groups, -1, *weight.shape[1:]).permute(0, 3, 4, 2, 1)


def _expect(holds: bool, what: str, value: Value) -> None:
    if not holds:
        raise Unsupported(f"{what} of {value.dtype} of the shape {value.shape}")
