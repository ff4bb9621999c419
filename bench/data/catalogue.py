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
    num_classes: int
    synthetic: bool
    embedded: bool  # comes with the installed packages: no download, no data folder


_CARDS = (
    DatasetCard(
        name="cifar10",
        title="CIFAR-10",
        summary="50,000 training and 10,000 test photos, 32x32 RGB; a 163 MiB download",
        num_classes=10,
        synthetic=False,
        embedded=False,
    ),
    DatasetCard(
        name="cifar100",
        title="CIFAR-100",
        summary="50,000 training and 10,000 test photos, 32x32 RGB; a 161 MiB download",
        num_classes=100,
        synthetic=False,
        embedded=False,
    ),
    DatasetCard(
        name="digits",
        title="UCI handwritten digits",
        summary="1,797 real scans, 8x8 grey, as shipped with scikit-learn; 1,297 train, 500 test",
        num_classes=10,
        synthetic=False,
        embedded=True,
    ),
    DatasetCard(
        name="graded_digits",
        title="UCI handwritten digits under graded noise, occlusion and shifts",
        summary="the digits scans, 10x10 grey, damaged by known degrees; 1,297 train, 1,000 test",
        num_classes=10,
        synthetic=True,
        embedded=True,
    ),
    DatasetCard(
        name="synthetic",
        title="Synthetic glyphs of graded difficulty",
        summary="5,000 generated images, 16x16 RGB, each with a known difficulty; not real data",
        num_classes=10,
        synthetic=True,
        embedded=True,
    ),
)

DATASETS: Mapping[str, DatasetCard] = MappingProxyType({card.name: card for card in _CARDS})
