"""CIFAR from a folder of image files instead of the archive: `bench data import`.

Owns the checks that the folder is what it is said to be. Afterwards the data set loads from its
decoded copy like any other.
"""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

from bench.data import cache
from bench.data.cifar import SIZE_HW, SOURCES, Source, cache_path, described_as
from bench.data.folder import LAYOUT, Listing, decode, list_splits
from bench.data.images import Dataset, ImageSet
from bench.errors import DataError, UnknownNameError


def import_folder(name: str, folder: Path, *, data_dir: Path) -> Dataset:
    """Decode `folder` as the data set `name` and keep the decoded copy in `data_dir`.

    Lossy files (JPEG) are accepted, with a warning where the official fingerprint is known.
    """
    if name not in SOURCES:
        raise UnknownNameError("data set to import", name, SOURCES)
    source = SOURCES[name]
    splits = list_splits(folder)
    for split, listing, count in zip(
        ("train", "test"), splits, (source.train_count, source.test_count), strict=True
    ):
        _check(listing, source=source, count=count, place=folder / split)
    train, test = (
        _decoded(listing, title=f"Decoding {split}")
        for listing, split in zip(splits, ("train", "test"), strict=True)
    )
    dataset = described_as(source, train, test)
    _compare(dataset, source)
    cache.save(dataset, cache_path(name, data_dir=data_dir), source=name)
    return dataset


def _check(listing: Listing, *, source: Source, count: int, place: Path) -> None:
    """Refuse a split whose classes or numbers of images are not those of the data set."""
    found, expected = set(listing.class_names), set(source.class_names)
    if found != expected:
        raise DataError(
            f"The class folders in {place} are not those of {source.name}:"
            f" missing {_listed(expected - found)}; unknown {_listed(found - expected)}.",
            hint=f"The folders must be called {', '.join(source.class_names[:3])} and so on.",
        )
    per_class = Counter(listing.labels)
    odd = [
        f"{class_name} {per_class[label]:,}"
        for label, class_name in enumerate(listing.class_names)
        if per_class[label] * len(expected) != count
    ]
    if odd:
        raise DataError(
            f"{place} has {len(listing.files):,} images, expected {count:,},"
            f" {count // len(expected):,} per class; found {', '.join(odd[:10])}.",
            hint=LAYOUT,
        )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)[:10]) or "none"


def _decoded(listing: Listing, *, title: str) -> ImageSet:
    decoded = decode(listing, size_hw=SIZE_HW, title=title)
    if decoded.grey:
        raise DataError(
            f"All images in {listing.files[0].parents[1]} are grey, expected RGB.",
            hint="Use the colour images.",
        )
    return decoded.images


def _compare(dataset: Dataset, source: Source) -> None:
    found = dataset.info.fingerprint
    if source.fingerprint not in (None, found):
        warnings.warn(
            f"The pixels or labels are not exactly those of the official {source.name}"
            f" (fingerprint {found}, official {source.fingerprint}): the images may have been"
            " stored with loss. Results will not be comparable to the last digit.",
            cache.DataWarning,
            stacklevel=3,
        )
