"""Instructions that are one in C++: a convolution with what is added and its ReLU, a * b + c, and a
block that runs at some positions only.

Works on programs; what is left over is dead and removed. Owns no memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import torch

from bench.runtimes.instructions import Instruction, Program, Region, Value, without_dead

VECTOR = 16  # output channels of a fast convolution are a multiple of this


def fused(program: Program) -> Program:
    """Return the same program in fewer instructions."""
    outs = program.logits, program.executed
    reads = [value for one in program.code for value in one.reads()]
    code = _Fusing(Counter(map(id, (*outs, *reads)))).region(program.code)
    return program._replace(code=without_dead(code, outs))


def is_fast(convolution: Instruction) -> bool:
    """Whether a convolution is 3x3 with a padding of 1 and channels in whole vectors."""
    weight, settings = convolution.ins[1].shape, convolution.settings
    one = settings["groups"], settings["dilation"], settings["padding"]
    stride = settings["stride"]
    known = weight[2:] == (3, 3) and one == (1, (1, 1), (1, 1)) and stride[0] == stride[1]
    return known and weight[0] % VECTOR == 0


class _Fusing:
    def __init__(self, uses: Counter[int]) -> None:
        self._uses = uses
        self._made_by: dict[int, Instruction] = {}

    def region(self, code: Iterable[Instruction]) -> tuple[Instruction, ...]:
        made: list[Instruction] = []
        for one in code:
            if one.regions:
                sides = tuple(Region(self.region(side.code), side.outs) for side in one.regions)
                one = replace(one, regions=sides)
            found = self._at_positions(one) or [self._better(one) or one]
            made += found
            self._made_by |= {id(out): new for new in found for out in new.outs}
        return tuple(made)

    def _better(self, one: Instruction) -> Instruction | None:
        kind = one.settings.get("kind")
        if one.op == "binary" and kind == "add" and one.outs[0].dtype == torch.float32:
            return self._sum(one)
        if one.op == "unary" and kind == "relu":
            return self._sparse_block(one) or self._clipped(one)
        return None

    def _sum(self, one: Instruction) -> Instruction | None:
        out = one.outs[0]
        for mine, other in (one.ins[::-1], one.ins):
            made = self._only_here(mine, "convolution")
            if made and out.shape == mine.shape == other.shape and not _ends(made):
                return _like(made, (*made.ins, other), out, adds=True)
        for mine, other in (one.ins[::-1], one.ins):
            made = self._only_here(mine, "binary")
            if made and made.settings["kind"] == "mul":
                return Instruction("muladd", (*made.ins, other), one.outs)
        return None

    def _clipped(self, one: Instruction) -> Instruction | None:
        made = self._only_here(one.ins[0], "convolution")
        if made is None or made.settings.get("relu"):
            return None
        return _like(made, made.ins, one.outs[0], relu=True)

    def _at_positions(self, one: Instruction) -> list[Instruction] | None:
        """A branch by positions: there relu(shortcut + convolution(relu(convolution(state))))."""
        if one.op != "branch" or one.ins[0].shape == (1,):
            return None
        ran, skipped = one.regions
        code = without_dead(ran.code, ran.outs)
        if [part.op for part in code] != ["convolution", "convolution"] or len(one.outs) != 1:
            return None
        first, second = code
        ends = second.settings.get("relu") and second.settings.get("adds")
        begins = first.settings.get("relu") and not first.settings.get("adds")
        follow = second.ins[0] is first.outs[0] and second.outs[0] is ran.outs[0]
        if not (ends and begins and follow and is_fast(first) and _stays(second)):
            return None
        weights = *_weights(first), *_weights(second)
        ins = skipped.outs[0], one.ins[0], first.ins[0], second.ins[-1], *weights
        stride = first.settings["stride"][0]
        return [*skipped.code, Instruction("sparse_block", ins, one.outs, {"stride": stride})]

    def _sparse_block(self, one: Instruction) -> Instruction | None:
        """relu(state + mask * convolution(relu(convolution(state)))) for a mask of positions."""
        total = self._only_here(one.ins[0], "muladd")
        if total is None:
            return None
        state = total.ins[2]
        for factor, residual in (total.ins[:2], total.ins[1::-1]):
            cast, second = self._made_by.get(id(factor)), self._only_here(residual, "convolution")
            if cast is None or cast.op != "cast" or second is None or _ends(second):
                continue
            first = self._only_here(second.ins[0], "convolution")
            mask = cast.ins[0]
            if first is None or first.ins[0] is not state or not first.settings.get("relu"):
                continue
            shape = (1, 1, *state.shape[2:])
            whole = mask.dtype == torch.bool and mask.shape == shape != (1, 1, 1, 1)
            same = _stays(first) and _stays(second) and state.shape[1] % VECTOR == 0
            if whole and same and not first.settings.get("adds") and self._not_negative(state):
                ins = (state, mask, state, state, *_weights(first), *_weights(second))
                return Instruction("sparse_block", ins, one.outs, {"stride": 1})
        return None

    def _only_here(self, value: Value, op: str) -> Instruction | None:
        """Return what made a value that nothing else reads, if it is of this kind."""
        made = self._made_by.get(id(value))
        return made if made and made.op == op and self._uses[id(value)] == 1 else None

    def _not_negative(self, value: Value) -> bool:
        made = self._made_by.get(id(value))
        if made is None:
            return False
        if made.op == "branch":
            place = made.outs.index(value)
            return all(self._not_negative(side.outs[place]) for side in made.regions)
        relu = made.op == "unary" and made.settings["kind"] == "relu"
        return relu or made.op == "sparse_block" or bool(made.settings.get("relu"))


def _ends(convolution: Instruction) -> bool:
    return bool(convolution.settings.get("relu") or convolution.settings.get("adds"))


def _like(made: Instruction, ins: tuple[Value, ...], out: Value, **settings: bool) -> Instruction:
    return replace(made, ins=ins, outs=(out,), settings={**made.settings, **settings})


def _stays(convolution: Instruction) -> bool:
    return is_fast(convolution) and convolution.settings["stride"] == (1, 1)


def _weights(convolution: Instruction) -> tuple[Value, Value]:
    if len(convolution.ins) == 3 + bool(convolution.settings.get("adds")):
        return convolution.ins[1], convolution.ins[2]
    weight = convolution.ins[1].constant
    assert weight is not None
    return convolution.ins[1], Value((len(weight),), weight.dtype, weight.new_zeros(len(weight)))
