"""The form of a program: instructions on the tensors of one image, and branches; its writer.

Owns no operator (operators.py) and no way of running one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor of one image, (1, ...); `constant` holds its numbers where they never change."""

    shape: Shape
    dtype: torch.dtype
    constant: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """One side of a branch: its instructions, and what it gives."""

    code: tuple[Instruction, ...]
    outs: tuple[Value, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Instruction:
    """An operator by name, what it reads and gives, and its settings.

    "branch" reads one boolean, or one for each position of a map (1, 1, h, w), and gives what its
    first region gives where that is true, else what its second gives; both see all values before
    it.
    """

    op: str
    ins: tuple[Value, ...]
    outs: tuple[Value, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    regions: tuple[Region, ...] = ()

    def reads(self) -> Iterator[Value]:
        """Yield all that it reads, and that its regions read and give."""
        yield from self.ins
        for side in self.regions:
            yield from side.outs
            for inner in side.code:
                yield from inner.reads()


class Program(NamedTuple):
    """From one image (1, C, H, W) to `logits` (1, K) and `executed` (1, U)."""

    image: Value
    code: tuple[Instruction, ...]
    logits: Value
    executed: Value


class InstructionWriter:
    """Writes instructions down, into `code`."""

    def __init__(self) -> None:
        self.code: list[Instruction] = []

    def emit(
        self,
        op: str,
        ins: Sequence[Value],
        shape: Iterable[int],
        dtype: torch.dtype,
        **settings: Any,
    ) -> Value:
        """Add an instruction with one output."""
        out = Value(tuple(shape), dtype)
        self.code.append(Instruction(op, tuple(ins), (out,), settings))
        return out

    def cast(self, value: Value, dtype: torch.dtype) -> Value:
        """Return a value in another type."""
        if value.dtype == dtype:
            return value
        if value.constant is not None:
            return self.constant(value.constant.to(dtype))
        return self.emit("cast", [value], value.shape, dtype)

    def constant(self, numbers: Tensor) -> Value:
        """Return a value that never changes."""
        return Value(tuple(numbers.shape), numbers.dtype, numbers)


def walk(code: Iterable[Instruction]) -> Iterator[Instruction]:
    """Yield all instructions, behind a branch those of its sides."""
    for one in code:
        yield one
        for side in one.regions:
            yield from walk(side.code)


def without_dead(code: Sequence[Instruction], outs: Iterable[Value]) -> tuple[Instruction, ...]:
    """Return the instructions that `outs` depend on."""
    needed = {id(out) for out in outs}
    kept: list[Instruction] = []
    for one in reversed(code):
        if not any(id(out) in needed for out in one.outs):
            continue
        sides = (Region(without_dead(side.code, side.outs), side.outs) for side in one.regions)
        kept.append(replace(one, regions=tuple(sides)))
        needed |= {id(value) for value in kept[-1].reads()}
    return tuple(reversed(kept))
