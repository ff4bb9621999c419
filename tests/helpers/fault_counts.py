"""One count of all faults that were tried, and of those that cost nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Faults:
    """How many faults of each kind were tried, and how many cost something."""

    tried: Counter[str] = field(default_factory=Counter)
    survived: Counter[str] = field(default_factory=Counter)

    def trying(self, kind: str) -> None:
        """Count a fault; it is lost unless `survived` is counted too."""
        self.tried[kind] += 1

    def over(self, kind: str) -> None:
        """Count one that nothing was lost by."""
        self.survived[kind] += 1

    def lines(self) -> list[str]:
        rows = [(kind, n, self.survived[kind]) for kind, n in sorted(self.tried.items())]
        rows.append(("all", self.tried.total(), self.survived.total()))
        head = f"{'fault':58}{'tried':>7}{'survived':>10}{'lost':>6}"
        return [head, *(f"{kind:58}{n:7}{ok:10}{n - ok:6}" for kind, n, ok in rows)]
