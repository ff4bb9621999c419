"""Where the tensors of a program lie in memory while one image is computed.

Maps lie channels-last within a border of zeros, so that a convolution copies nothing; all else is
dense. Memory is used again for another tensor of the same form. Owns addresses and strides, and no
instruction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

_LINE = 64  # bytes of a line of the cache

TYPES = (torch.float32, torch.float64, torch.int64, torch.int32, torch.bool)
WORK, CONSTANT = range(2)


@dataclass(eq=False, slots=True)
class Storage:
    """Memory of `size_bytes`, needed from instruction `first` to `last`; `form` is what it may be
    used again for. `offset_bytes` is known once all are."""

    form: tuple[int, ...]
    size_bytes: int
    space: int = WORK
    first: int = -1
    last: int = -1
    offset_bytes: int = -1

    def touch(self, place: int) -> None:
        """Note that an instruction reads or writes it."""
        self.first = place if self.first < 0 else self.first
        self.last = max(self.last, place)


class MemoryLayout(NamedTuple):
    """A tensor in a storage: offset and strides count numbers. `border`: it is a whole map, with so
    many rows and columns of zeros around."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    border: int = 0

    def like(self, x: Tensor) -> MemoryLayout:
        """Return the view that a tensor on the meta device describes."""
        offset = int(x.storage_offset())
        return MemoryLayout(self.storage, self.dtype, offset, tuple(x.shape), tuple(x.stride()))

    def on_meta(self) -> Tensor:
        """Return a tensor without numbers that lies like this one."""
        span = self.offset + 1
        span += sum((n - 1) * step for n, step in zip(self.sizes, self.strides, strict=True))
        whole = torch.empty(span, device="meta")
        return whole.as_strided(self.sizes, self.strides, self.offset)

    def expanded(self, sizes: Sequence[int]) -> MemoryLayout:
        """Return the same numbers, repeated along dimensions of size 1 or that are missing."""
        return self.like(self.on_meta().expand(tuple(sizes)))

    @property
    def is_dense(self) -> bool:
        """Whether the numbers lie one after the other, in order."""
        return self.on_meta().is_contiguous()

    def in_rows(self) -> MemoryLayout:
        """Return a map (1, C, h, w) as rows, columns and channels."""
        order = (0, 2, 3, 1)
        sizes, strides = ([of[d] for d in order] for of in (self.sizes, self.strides))
        return self._replace(sizes=tuple(sizes), strides=(0, *strides[1:]))

    def flat(self) -> MemoryLayout:
        """Return dense numbers as one row."""
        return self._replace(sizes=(math.prod(self.sizes),), strides=(1,))

    def words(self) -> tuple[int, ...]:
        """Return an operand as C++ reads it: four dimensions, or fewer filled up in front."""
        missing = 4 - len(self.sizes)
        begin = self.storage.offset_bytes // self.dtype.itemsize + self.offset
        where = self.storage.space, TYPES.index(self.dtype), begin
        sizes, strides = (*[1] * missing, *self.sizes), (*[0] * missing, *self.strides)
        return *where, *sizes, *strides, self.border


def map_layout(shape: Sequence[int], border: int) -> MemoryLayout:
    """Return a new map (1, C, h, w) of float32."""
    _, channels, height, width = shape
    row = (width + 2 * border) * channels
    size = (height + 2 * border) * row
    form = (channels, height, width, border)
    strides = (size, 1, row, channels)
    offset = border * (row + channels)
    storage = Storage(form, 4 * size)
    return MemoryLayout(storage, torch.float32, offset, tuple(shape), strides, border)


def dense_layout(shape: Sequence[int], dtype: torch.dtype) -> MemoryLayout:
    """Return a new tensor whose numbers lie one after the other."""
    strides = torch.empty(tuple(shape), device="meta").stride()
    size = max(1, math.prod(shape)) * dtype.itemsize
    return MemoryLayout(Storage((size,), size), dtype, 0, tuple(shape), tuple(strides))


@dataclass(slots=True)
class Constants:
    """All numbers that never change, one after the other."""

    parts: list[bytes] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, numbers: Tensor) -> MemoryLayout:
        """Return where these numbers will lie, densely."""
        raw = numbers.detach().cpu().numpy().tobytes()
        raw += bytes(-len(raw) % _LINE)
        storage = Storage((), len(raw), CONSTANT, offset_bytes=self.size_bytes)
        self.parts.append(raw)
        self.size_bytes += len(raw)
        return dense_layout(numbers.shape, numbers.dtype)._replace(storage=storage)


def placed(storages: Sequence[Storage]) -> int:
    """Give each storage its address; return how many bytes they need together."""
    free: dict[tuple[int, ...], list[tuple[int, int]]] = {}  # by form: until when taken, where
    total = 0
    for one in sorted(storages, key=lambda storage: storage.first):
        pool = free.setdefault(one.form, [])
        spare = [entry for entry in pool if entry[0] < one.first]
        if spare:
            pool.remove(spare[0])
            one.offset_bytes = spare[0][1]
        else:
            one.offset_bytes = total
            total += one.size_bytes + -one.size_bytes % _LINE
        pool.append((one.last, one.offset_bytes))
    return total


Dims = list[tuple[int, tuple[int, ...]]]  # of each dimension: its size, and each operand's stride


def merged(operands: Sequence[MemoryLayout]) -> Dims:
    """Return the dimensions of operands of one shape, as few as describe them, the outer first."""
    steps = zip(*(operand.strides for operand in operands), strict=True)
    dims = zip(operands[0].sizes, steps, strict=True)
    return _fewest(sorted(dims, key=lambda pair: pair[1], reverse=True))


def split(layout: MemoryLayout, dims: Sequence[int]) -> tuple[Dims, Dims]:
    """Return the dimensions that stay and those that are reduced, in order, as few as describe
    them."""
    pairs: Dims = list(zip(layout.sizes, zip(layout.strides, strict=True), strict=True))
    kept = [pair for d, pair in enumerate(pairs) if d not in dims]
    return _fewest(kept), _fewest([pairs[d] for d in dims])


def _fewest(dims: Dims) -> Dims:
    found: Dims = []
    for size, strides in dims:
        if size == 1:
            continue
        if found and all(
            outer == size * inner for outer, inner in zip(found[-1][1], strides, strict=True)
        ):
            found[-1] = found[-1][0] * size, strides
        else:
            found.append((size, strides))
    return found
