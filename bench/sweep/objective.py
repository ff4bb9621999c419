"""How good a trial is, from accuracy and cost on held-out images: one number, larger is better.

Owns the two objectives and their words. The test set has no part in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bench.analysis.pareto import Point, hypervolume

DENSE_COST = 1.0


@dataclass(frozen=True, slots=True)
class Objective:
    """Accuracy at no more than `budget` nFLOPs; without a budget, the hypervolume.

    With a budget, a trial within it counts by its accuracy and any other by how far it lies beyond,
    always below all that keep to it (Deb 2000: feasibility first). The hypervolume is the area
    between a trial's own points and the corner of no use: as expensive as the dense network, and no
    better than guessing.
    """

    budget: float | None
    num_classes: int

    def score(self, points: Iterable[Point]) -> float:
        """Return the score of a trial with these points (nFLOPs, accuracy).

        Raises:
            ValueError: there are no points.
        """
        listed = list(points)
        if self.budget is None:
            return hypervolume(listed, worst_cost=DENSE_COST, worst_accuracy=1 / self.num_classes)
        budget = self.budget
        return max(accuracy if nflops <= budget else budget - nflops for nflops, accuracy in listed)

    def after_epoch(
        self, values: Mapping[str, float], *, done: int, epochs: int
    ) -> tuple[float, float] | None:
        """Return percent of the training and score after `done` epochs, from the values of a row.

        None where nothing was measured, and after the last epoch: that one is judged with the end.
        """
        point = point_of(values)
        if point is None or done >= epochs:
            return None
        return 100 * done / epochs, self.score([point])

    def allows(self, points: Iterable[Point]) -> bool:
        """Whether a trial with these points keeps to the budget, if there is one."""
        return self.budget is None or any(nflops <= self.budget for nflops, _ in points)

    def sentence(self) -> str:
        """Return what is chosen by, in words."""
        if self.budget is None:
            return (
                "largest hypervolume of (nFLOPs, accuracy) on held-out training images, "
                f"from the corner ({DENSE_COST:g}, {1 / self.num_classes:g})"
            )
        return (
            "highest accuracy on held-out training images "
            f"at no more than {self.budget:g} of the dense network's MACs"
        )


def point_of(row: Mapping[str, float]) -> Point | None:
    """Return (nFLOPs, accuracy) on held-out images after an epoch, from the values of its row."""
    if "nflops_held_out" not in row or "accuracy_held_out" not in row:
        return None
    return row["nflops_held_out"], row["accuracy_held_out"]
