"""Operands and weights in the order in which C++ reads them, and what it has no form of.

Owns no memory and writes no instruction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bench.errors import Unsupported
from bench.runtimes.instructions import Instruction, Value
from bench.runtimes.native.fusing import VECTOR
from bench.runtimes.native.memory import MemoryLayout

Operand = tuple[MemoryLayout, tuple[int, ...], tuple[int, ...]]
"""A layout, and the sizes and strides by which an instruction reads it."""


def images(layout: MemoryLayout) -> Operand:
    """Return a map (1, C, h, w) as rows, columns and channels."""
    order = (0, 2, 3, 1)
    sizes, strides = ([of[d] for d in order] for of in (layout.sizes, layout.strides))
    return layout, tuple(sizes), (0, *strides[1:])


def flat(layout: MemoryLayout) -> Operand:
    return layout, (int(np.prod(layout.sizes)),), (1,)


def viewed(one: Instruction, layout: MemoryLayout) -> MemoryLayout | None:
    """Return what a view of a layout is, or None where the numbers have to be laid out anew."""
    settings, shape, meta = one.settings, one.outs[0].shape, layout.on_meta()
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
    except RuntimeError:
        return None


def reshaped(layout: MemoryLayout, shape: Sequence[int]) -> MemoryLayout:
    strides = torch.empty(tuple(shape), device="meta").stride()
    return layout._replace(sizes=tuple(shape), strides=tuple(strides), border=0)


def split(
    layout: MemoryLayout, dims: Sequence[int]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return sizes and strides of the dimensions that stay and of those that are reduced."""
    parts: list[list[tuple[int, int]]] = []
    for chosen in (False, True):
        places = [d for d in range(len(layout.sizes)) if (d in dims) == chosen]
        part = layout._replace(
            sizes=tuple(layout.sizes[d] for d in places),
            strides=tuple(layout.strides[d] for d in places),
        )
        parts.append([(size, steps[0]) for size, steps in in_order(part)])
    return parts[0], parts[1]


def in_order(layout: MemoryLayout) -> list[tuple[int, tuple[int, ...]]]:
    """Return merged dimensions without changing their order."""
    found: list[tuple[int, tuple[int, ...]]] = []
    for size, step in zip(layout.sizes, layout.strides, strict=True):
        if size == 1:
            continue
        if found and found[-1][1][0] == size * step:
            found[-1] = found[-1][0] * size, (step,)
        else:
            found.append((size, (step,)))
    return found


def packed(weight: Tensor) -> Tensor:
    """Return (C_out / 16, 3, 3, C_in, 16) of (C_out, C_in, 3, 3)."""
    grouped = weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0] // VECTOR, VECTOR)
    return grouped.transpose(0, 1).contiguous()


def grouped(weight: Tensor, groups: int) -> Tensor:
    """Return (groups, kh, kw, C_in / groups, C_out / groups) of (C_out, C_in / groups, kh, kw)."""
    split = weight.reshape(groups, -1, *weight.shape[1:])
    return split.permute(0, 3, 4, 2, 1).contiguous()


def paddings(code: Sequence[Instruction]) -> list[int]:
    found: list[int] = []
    for one in code:
        if one.op == "convolution":
            found += one.settings["padding"]
        for side in one.regions:
            found += paddings(side.code)
    return found


_INTEGERS = {"and", "or", "xor", "shl", "shr"}


def check_types(one: Instruction) -> None:
    """Refuse what C++ has no form of, before it would have to."""
    kind, types = one.settings.get("kind"), {value.dtype for value in one.ins}
    floats = all(dtype.is_floating_point for dtype in types)
    whole = not any(dtype.is_floating_point for dtype in types)
    fits = True
    if one.op in ("unary", "product"):
        fits = floats or (kind == "not" and whole) or (kind == "neg" and types == {torch.int64})
    elif one.op == "binary":
        fits = torch.int32 not in types and (
            whole if kind in _INTEGERS else floats or kind != "div"
        )
    elif one.op == "muladd":
        fits = types == {torch.float32}
    if not fits:
        named = " and ".join(sorted(str(dtype) for dtype in types))
        raise Unsupported(f"the operator {kind or one.op} of numbers of the type {named}")


def expect(holds: bool, what: str, value: Value) -> None:
    if not holds:
        raise Unsupported(f"{what} of {value.dtype} of the shape {value.shape}")
