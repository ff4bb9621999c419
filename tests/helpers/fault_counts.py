"""One count of all faults that were tried, and of those that cost nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Faults:
    """How many faults of each kind were tried, and how many cost something."""

    tried: Counter[str] = field(default_factory=Counter)
    survived: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """Count a fault, and that nothing was lost by it where what is done meanwhile succeeds."""
        self.tried[kind] += 1
        yield
        self.survived[kind] += 1

    def each(self, kind: str, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, each a fault that is over when the next one is asked for."""
        for item in items:
            with self.during(kind):
                yield item

    def lines(self) -> list[str]:
        rows = [(kind, n, self.survived[kind]) for kind, n in sorted(self.tried.items())]
        rows.append(("all", self.tried.total(), self.survived.total()))
        head = f"{'fault':58}{'tried':>7}{'survived':>10}{'lost':>6}"
        return [head, *(f"{kind:58}{n:7}{ok:10}{n - ok:6}" for kind, n, ok in rows)]
