"""Which values of a program may lie in the same memory: the sides of a branch and what they give.

So the state that skips a block is not copied, and a block changes it in place. Only what is safe in
every order that the branches allow is shared. Owns no addresses.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.runtimes.instructions import Instruction, Program, Region, Value, walk

VIEWS = frozenset({"select", "slice", "reshape", "permute", "expand", "bits"})
_BY_NUMBER = frozenset({"unary", "binary", "muladd", "where"})


class MemorySharing:
    """For each value, whose memory it lies in: its own, or that of one before it."""

    def __init__(self, program: Program) -> None:
        self._base: dict[int, Value] = {}
        self._home: dict[int, Value] = {}
        for one in walk(program.code):
            if one.op in VIEWS:
                self._base[id(one.outs[0])] = self._root(one.ins[0])
        self._settle(program.code, (program.logits, program.executed))

    def home(self, value: Value) -> Value:
        """Return the value in whose memory this one lies."""
        while id(value) in self._home:
            value = self._home[id(value)]
        return value

    def _root(self, value: Value) -> Value:
        return self._base.get(id(value), value)

    def _settle(self, code: Sequence[Instruction], outs: Sequence[Value]) -> None:
        last = self._last_reads(code, outs)
        mine = {id(out) for one in code if one.op not in VIEWS for out in one.outs}
        for place, one in enumerate(code):
            if one.op == "branch":
                for number in range(len(one.outs)):
                    self._join(one, number, place, last, mine)
                for side in one.regions:
                    self._settle(side.code, side.outs)
                continue
            for value in one.ins:
                dies = id(value) in mine and last[id(value)] == place
                if dies and self._may_overwrite(one, value) and id(one.outs[0]) not in self._home:
                    self._home[id(one.outs[0])] = value
                    break

    def _join(
        self, one: Instruction, number: int, place: int, last: dict[int, int], mine: set[int]
    ) -> None:
        for side, other in (one.regions[::-1], one.regions):
            through = side.outs[number]
            again = sum(self._root(out) is through for out in side.outs) > 1
            crossed = any(self._root(out) is through for out in other.outs)
            if id(through) not in mine or last[id(through)] > place or again or crossed:
                continue
            self._home[id(one.outs[number])] = through
            self._lead(other.outs[number], through, other)
            return

    def _lead(self, value: Value, into: Value, side: Region) -> None:
        """Let what a side gives be computed where it is wanted, if nothing there is needed then."""
        made = [place for place, one in enumerate(side.code) if value in one.outs]
        if not made or id(value) in self._home:
            return
        place = made[0]
        one = side.code[place]
        if one.op == "branch":
            number = one.outs.index(value)
            inner = {id(out) for before in side.code[:place] for out in before.outs}
            for region in reversed(one.regions):
                through = region.outs[number]
                if id(through) in inner:
                    self._lead(through, into, side)
                    return
            return
        reads_later = [self._reads(later) for later in side.code[place + 1 :]]
        if any(id(into) in reads for reads in reads_later) or one.op in VIEWS:
            return
        others = [out for out in side.outs if out is not value]
        if any(self._root(out) is into for out in others):
            return
        if id(into) not in self._reads(one) or self._may_overwrite(one, into):
            self._home[id(value)] = into

    def _may_overwrite(self, one: Instruction, value: Value) -> bool:
        """Whether the output may lie where `value`, which it reads, is: number by number."""
        out = one.outs[0]
        if (value.shape, value.dtype) != (out.shape, out.dtype) or value.constant is not None:
            return False
        if any(self._root(other) is value for other in one.ins if other is not value):
            return False
        if one.op == "convolution":
            return bool(one.settings.get("adds")) and value is one.ins[-1] is not one.ins[0]
        return one.op in _BY_NUMBER or (one.op == "sparse_block" and value is one.ins[0])

    def _last_reads(self, code: Sequence[Instruction], outs: Sequence[Value]) -> dict[int, int]:
        last = {id(out): -1 for one in code for out in one.outs}
        for place, one in enumerate(code):
            last |= dict.fromkeys(self._reads(one), place)
        return last | {id(self._root(out)): len(code) for out in outs}

    def _reads(self, one: Instruction) -> set[int]:
        """Return the roots of all that an instruction reads, in its regions too."""
        return {id(self._root(value)) for value in one.reads()}
