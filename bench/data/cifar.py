"""CIFAR-10 and CIFAR-100: where they come from, what they must look like, how they get to disk.

Sources in turn: the decoded copy, the official archive, what was unpacked of it, a download; and a
folder of image files (`bench data import`). torchvision reads the official files, each after its
md5: of what is not theirs nothing is unpickled. The network is `download`'s.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from bench.data import cache
from bench.data.cache import storage_errors
from bench.data.catalogue import DATASETS
from bench.data.download import MIRROR_VARIABLE, RemoteFile, download, md5_of, places
from bench.data.folder import LAYOUT, Listing, decode, list_splits
from bench.data.images import Dataset, ImageSet, described, in_canonical_order
from bench.errors import DataError, UnknownNameError

Network = Literal["allowed", "forbidden"]
OFFICIAL_URL = "https://www.cs.toronto.edu/~kriz"
SIZE_HW = (32, 32)
CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
    keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
    mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain
    plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
    television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


@dataclass(frozen=True, slots=True)
class CifarArchive:
    """Facts about one CIFAR: the archive, the folder in it, and the customary preparation."""

    name: str
    file: RemoteFile
    folder: str
    class_names: tuple[str, ...]  # in label order, which for both is alphabetic
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str | None = None  # of the official pixels, where it is known
    train_count: int = 50_000
    test_count: int = 10_000


SOURCES = {
    "cifar10": CifarArchive(
        "cifar10",
        RemoteFile(
            "cifar-10-python.tar.gz", 170_498_071, "c58f30108f718f92721af3b95e74349a", OFFICIAL_URL
        ),
        folder="cifar-10-batches-py",
        class_names=tuple(CIFAR10_CLASSES.split()),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        # Of a lossless copy whose channel means and deviations are the published ones to the
        # last digit (train mean 125.306918, 122.950394, 113.865383).
        fingerprint="da16546c3218b6d8",
    ),
    "cifar100": CifarArchive(
        "cifar100",
        RemoteFile(
            "cifar-100-python.tar.gz", 169_001_437, "eb9058c3a382ffc7106e4002c42a8d85", OFFICIAL_URL
        ),
        folder="cifar-100-python",
        class_names=tuple(CIFAR100_CLASSES.split()),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
}


def cache_path(name: str, *, data_dir: Path) -> Path:
    """Return where the decoded copy of a CIFAR lies."""
    return data_dir / name / cache.FILE_NAME


def load_cifar(name: str, *, data_dir: Path, network: Network) -> Dataset:
    """Return `name` from the first source that has it; keep a decoded copy."""
    source, decoded = SOURCES[name], cache_path(name, data_dir=data_dir)
    cached = cache.load(decoded, source=name)
    if cached is not None:
        return cached
    archive = data_dir / source.file.name
    with storage_errors(data_dir):
        unpacked = (data_dir / source.folder).is_dir() and not archive.exists()
    if unpacked:
        dataset = _official(source, data_dir, of=data_dir / source.folder)
    else:
        if not archive.exists():
            hint, title = by_hand(source, data_dir=data_dir), DATASETS[name].title
            if network == "forbidden":
                said = f"{title} is not in {data_dir}, and the network must not be used."
                raise DataError(said, hint=hint)
            download(source.file, folder=data_dir, bases=places(source.file), hint=hint)
        dataset = _of_archive(source, archive)
    cache.save(dataset, decoded, source=name)
    return dataset


def by_hand(source: CifarArchive, *, data_dir: Path) -> str:
    """Return what a person can do to get the data where the download fails."""
    file = source.file
    return (
        f"Put {file.name} ({file.size_bytes:,} bytes, md5 {file.md5}) into {data_dir.resolve()},"
        f" or set ${MIRROR_VARIABLE} to the base URL of a mirror (several with commas),"
        f" or run `bench data import {source.name} FOLDER` on a folder with train/ and test/,"
        " one folder of images per class in each."
    )


def archive_problem(source: CifarArchive, *, data_dir: Path) -> str | None:
    """Return what is wrong with the archive in the data folder, or None."""
    path, expected = data_dir / source.file.name, source.file
    with storage_errors(data_dir):
        size_bytes, md5 = path.stat().st_size, md5_of(path)
    if md5 == expected.md5:
        return None
    return (
        f"it has {size_bytes:,} bytes and md5 {md5},"
        f" expected {expected.size_bytes:,} bytes and md5 {expected.md5}"
    )


def _of_archive(source: CifarArchive, path: Path) -> Dataset:
    problem = archive_problem(source, data_dir=path.parent)
    if problem is not None:
        raise DataError(
            f"{path} is incomplete or damaged: {problem}.",
            hint=f"Delete it and run `bench data fetch {source.name}` to fetch it again.",
        )
    with storage_errors(path.parent), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        shutil.unpack_archive(path, folder, filter="data")
        return _official(source, Path(folder), of=path)


def _official(source: CifarArchive, root: Path, *, of: Path) -> Dataset:
    """Return the data set that lies unpacked in `root`, as torchvision checks and reads it."""
    from torchvision import datasets

    kind: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[source.name]
    try:
        train, test = (kind(root, train=split) for split in (True, False))
    except RuntimeError:  # a file is missing, or has another md5
        raise DataError(
            f"{of} does not hold the official {source.name}.",
            hint=f"Remove it and run `bench data fetch {source.name}`.",
        ) from None
    images = (
        ImageSet(torch.tensor(split.data).contiguous(), torch.tensor(split.targets))
        for split in (train, test)
    )
    return _described(source, *images)


def _described(source: CifarArchive, train: ImageSet, test: ImageSet) -> Dataset:
    return described(
        in_canonical_order(train),
        in_canonical_order(test),
        name=source.name,
        title=DATASETS[source.name].title,
        class_names=source.class_names,
        constants=(source.mean, source.std),
        pad=4,
        flip=True,
    )


def import_folder(name: str, folder: Path, *, data_dir: Path) -> Dataset:
    """Decode `folder` as the data set `name` and keep the decoded copy in `data_dir`.

    Lossy files (JPEG) are accepted, with a warning where the official fingerprint is known.
    """
    if name not in SOURCES:
        raise UnknownNameError("data set to import", name, SOURCES)
    source, splits = SOURCES[name], list_splits(folder)
    for listing, count in zip(splits, (source.train_count, source.test_count), strict=True):
        _check(listing, source, count=count)
    dataset = _described(source, *map(_decoded, splits))
    found = dataset.info.fingerprint
    if source.fingerprint not in (None, found):
        warnings.warn(
            f"The pixels or labels are not exactly those of the official {name} (fingerprint"
            f" {found}, official {source.fingerprint}): the images may have been stored with loss."
            " Results will not be comparable to the last digit.",
            cache.DataWarning,
            stacklevel=2,
        )
    cache.save(dataset, cache_path(name, data_dir=data_dir), source=name)
    return dataset


def _check(listing: Listing, source: CifarArchive, *, count: int) -> None:
    """Refuse a split whose classes or numbers of images are not those of the data set."""
    found, expected = set(listing.class_names), set(source.class_names)
    if found != expected:
        missing, unknown = (
            ", ".join(sorted(names)[:10]) or "none"
            for names in (expected - found, found - expected)
        )
        raise DataError(
            f"The class folders in {listing.folder} are not those of {source.name}:"
            f" missing {missing}; unknown {unknown}.",
            hint=f"The folders must be called {', '.join(source.class_names[:3])} and so on.",
        )
    counts = Counter(listing.class_names[label] for label in listing.labels)
    odd = [f"{name} {counts[name]:,}" for name in counts if counts[name] * len(found) != count]
    if odd:
        raise DataError(
            f"{listing.folder} has {len(listing.files):,} images, expected {count:,},"
            f" {count // len(expected):,} per class; found {', '.join(odd[:10])}.",
            hint=LAYOUT,
        )


def _decoded(listing: Listing) -> ImageSet:
    images, grey = decode(listing, size_hw=SIZE_HW, title=f"Decoding {listing.folder.name}")
    if grey:
        raise DataError(
            f"All images in {listing.folder} are grey, expected RGB.", hint="Use the colour images."
        )
    return images
