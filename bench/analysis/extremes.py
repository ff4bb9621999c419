"""Which images of a test set are the cheapest and the most expensive: those looked at one by one.

Owns the choice, so that what is kept of single images and what is shown of them are the same ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

SHOWN_IMAGES = 10


class Extremes(NamedTuple):
    """Positions in the test set, the most extreme first; of images that cost the same, in order."""

    cheapest: tuple[int, ...]
    most_expensive: tuple[int, ...]


def extremes_of(cost_n: npt.NDArray[Any]) -> Extremes:
    """Return SHOWN_IMAGES of each end, fewer of a small set: never one in both."""
    count = min(SHOWN_IMAGES, len(cost_n) // 2)
    return Extremes(
        tuple(int(n) for n in np.argsort(cost_n, kind="stable")[:count]),
        tuple(int(n) for n in np.argsort(-cost_n, kind="stable")[:count]),
    )
