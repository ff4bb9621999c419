"""The form of a program: instructions on the tensors of one image, and branches.

Owns no operator (operators.py) and no way of making or running one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

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


class Program(NamedTuple):
    """From one image (1, C, H, W) to `logits` (1, K) and `executed` (1, U)."""

    image: Value
    code: tuple[Instruction, ...]
    logits: Value
    executed: Value


class InstructionWriter(Protocol):
    """What operators emit instructions to: the Recorder of program.py."""

    def emit(
        self,
        op: str,
        ins: Sequence[Value],
        shape: Iterable[int],
        dtype: torch.dtype,
        **settings: Any,
    ) -> Value: ...

    def cast(self, value: Value, dtype: torch.dtype) -> Value: ...

    def constant(self, numbers: Tensor) -> Value: ...


def without_dead(code: Sequence[Instruction], outs: Iterable[Value]) -> tuple[Instruction, ...]:
    """Return the instructions that `outs` depend on."""
    needed = {id(out) for out in outs}
    kept: list[Instruction] = []
    for one in reversed(code):
        if not any(id(out) in needed for out in one.outs):
            continue
        if one.regions:
            sides = [Region(without_dead(side.code, side.outs), side.outs) for side in one.regions]
            one = Instruction(one.op, one.ins, one.outs, one.settings, tuple(sides))
            needed |= {id(value) for side in sides for value in _read_by(side)}
        needed |= {id(value) for value in one.ins}
        kept.append(one)
    return tuple(reversed(kept))


def _read_by(region: Region) -> Iterator[Value]:
    yield from region.outs
    for one in region.code:
        yield from one.ins
        for side in one.regions:
            yield from _read_by(side)
