"""The names of the built-in data sets and a card for each; owns no pixels and no loading code.

Importable without torch, so that listings answer at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class DatasetCard:
    """What a person reads about a data set before loading it."""

    name: str
    title: str
    summary: str
    num_classes: int = 10
    embedded: bool = False  # comes with the installed packages: no download, no data folder


_CIFAR = "50,000 training and 10,000 test photos, 32x32 RGB; a {} MiB download"
_CARDS = (
    DatasetCard("cifar10", "CIFAR-10", _CIFAR.format(163)),
    DatasetCard("cifar100", "CIFAR-100", _CIFAR.format(161), num_classes=100),
    DatasetCard(
        "digits",
        "UCI handwritten digits",
        "1,797 real scans, 8x8 grey, as shipped with scikit-learn; 1,297 train, 500 test",
        embedded=True,
    ),
    DatasetCard(
        "graded_digits",
        "UCI handwritten digits under graded noise, occlusion and shifts",
        "the digits scans, 10x10 grey, damaged by known degrees; 1,297 train, 1,000 test",
        embedded=True,
    ),
)

DATASETS: Mapping[str, DatasetCard] = MappingProxyType({card.name: card for card in _CARDS})
