"""Data sets of torchvision by name, where their files lie: `fashion_mnist`, `food101`, ...

Owns how their splits, labels and images are asked for; torchvision reads the files, nothing is
downloaded.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bench.data.cifar import SOURCES
from bench.data.images import Dataset, spread_over
from bench.data.photos import photos, sizes_of
from bench.data.plugin import DatasetPlugin
from bench.errors import DataError
from bench.plain_text import one_line

# A mirrored letter, digit or sign is another one.
_NEVER_FLIPPED = {"MNIST", "KMNIST", "QMNIST", "EMNIST", "SVHN", "USPS", "GTSRB", "RenderedSST2"}


def vision_named(name: str) -> Vision | None:
    """Return the data set of torchvision that `name` means, with or without _ and capitals."""
    found = _kinds().get(_plain(name.removeprefix("torchvision/")))
    return None if found is None else Vision(found)


@cache
def _kinds() -> dict[str, Any]:
    from torchvision import datasets

    kinds = {_plain(name): getattr(datasets, name) for name in datasets.__all__}
    return {name: kind for name, kind in kinds.items() if _split_word(kind) and name not in SOURCES}


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _split_word(kind: Any) -> str:
    words = inspect.signature(kind).parameters
    return next((word for word in ("train", "split") if word in words), "")


class Vision(DatasetPlugin):
    """One data set of torchvision, found by `vision_named`."""

    name, title = "torchvision", "a data set of torchvision"

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self.name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()  # type: ignore[misc]
        self.title = kind.__name__  # type: ignore[misc]

    @property
    def code(self) -> str:
        return f"torchvision {importlib.metadata.version('torchvision')}"

    def load(self, data_dir: Path, *, workers: int, room_bytes: int) -> Dataset:
        train, test = self._split(data_dir, "train"), self._split(data_dir, "test", "val")
        labels = _labels(train), _labels(test)
        names = getattr(train, "classes", None) or range(1 + max(map(max, labels)))
        few = [split[int(n)][0] for split in (train, test) for n in spread_over(len(split))]
        return photos(
            self,
            train=train,
            test=test,
            labels=labels,
            sizes=sizes_of([(image.height, image.width) for image in few]),
            class_names=[one_line(str(name), longest=100) for name in names],
            workers=workers,
            room_bytes=room_bytes,
            flip=self._kind.__name__ not in _NEVER_FLIPPED,
        )

    def _split(self, data_dir: Path, *names: str) -> Any:
        word, said = _split_word(self._kind), ""
        for name in names:
            try:
                return self._kind(data_dir, **{word: name == "train" if word == "train" else name})
            except Exception as error:  # each class has its own way to say that there is nothing
                said = said or one_line(str(error))
        raise DataError(
            f"{self.title} cannot be read from {data_dir}: {said}",
            hint='Its files must lie there as torchvision leaves them: python -c "from torchvision'
            f'.datasets import {self.title} as D; D({str(data_dir)!r}, download=True)"',
        )


def _labels(split: Any) -> Sequence[int]:
    for name in ("targets", "labels", "_labels"):
        found = getattr(split, name, None)
        if found is not None and len(found) == len(split):
            return [int(label) for label in found]
    return [int(split[n][1]) for n in range(len(split))]
