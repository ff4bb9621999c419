"""CIFAR-10 and CIFAR-100: where they come from, what they must look like, how they get to disk.

Sources in turn: the decoded copy, the official archive, what was unpacked of it, a download.
Pickles and tars are `archive`'s, the network is `download`'s, image files are `importing`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.data import archive, cache
from bench.data.catalogue import DATASETS
from bench.data.download import MIRROR_VARIABLE, RemoteFile, download, md5_of, places
from bench.data.identity import described, in_canonical_order
from bench.data.images import Dataset, ImageSet
from bench.data.storage import storage_errors
from bench.errors import DataError
from bench.reading import read_limited, reason_of

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
class Source:
    """Facts about one CIFAR: the archive, what is in it, and the customary preparation."""

    name: str
    file: RemoteFile
    train_members: tuple[str, ...]
    test_members: tuple[str, ...]
    labels_key: str
    class_names: tuple[str, ...]  # in label order, which for both is alphabetic
    train_count: int
    test_count: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str | None = None  # of the official pixels, where it is known

    @property
    def members(self) -> tuple[str, ...]:
        """The files of the archive that are read."""
        return (*self.train_members, *self.test_members)


SOURCES = {
    "cifar10": Source(
        name="cifar10",
        file=RemoteFile(
            name="cifar-10-python.tar.gz",
            size_bytes=170_498_071,
            md5="c58f30108f718f92721af3b95e74349a",
            official_url=OFFICIAL_URL,
        ),
        train_members=tuple(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)),
        test_members=("cifar-10-batches-py/test_batch",),
        labels_key="labels",
        class_names=tuple(CIFAR10_CLASSES.split()),
        train_count=50_000,
        test_count=10_000,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        # Of a lossless copy whose channel means and deviations are the published ones to the
        # last digit (train mean 125.306918, 122.950394, 113.865383).
        fingerprint="da16546c3218b6d8",
    ),
    "cifar100": Source(
        name="cifar100",
        file=RemoteFile(
            name="cifar-100-python.tar.gz",
            size_bytes=169_001_437,
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            official_url=OFFICIAL_URL,
        ),
        train_members=("cifar-100-python/train",),
        test_members=("cifar-100-python/test",),
        labels_key="fine_labels",
        class_names=tuple(CIFAR100_CLASSES.split()),
        train_count=50_000,
        test_count=10_000,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
}


def cache_path(name: str, *, data_dir: Path) -> Path:
    """Return where the decoded copy of a CIFAR lies."""
    return data_dir / name / cache.FILE_NAME


def load_cifar(name: str, *, data_dir: Path, network: Network) -> Dataset:
    """Return `name` from the first source that has it; keep a decoded copy."""
    source = SOURCES[name]
    decoded = cache_path(name, data_dir=data_dir)
    cached = cache.load(decoded, source=name)
    if cached is not None:
        return cached
    with storage_errors(data_dir):
        at_hand = (data_dir / source.file.name).exists()
        unpacked = all((data_dir / name).is_file() for name in source.members)
    if unpacked and not at_hand:
        dataset = _read_unpacked(source, data_dir=data_dir)
    else:
        if not at_hand:
            _download(source, data_dir=data_dir, network=network)
        dataset = read_archive(source, data_dir=data_dir)
    cache.save(dataset, decoded, source=name)
    return dataset


def _download(source: Source, *, data_dir: Path, network: Network) -> None:
    hint = by_hand(source, data_dir=data_dir)
    if network == "forbidden":
        title = DATASETS[source.name].title
        raise DataError(
            f"{title} is not in {data_dir}, and the network must not be used.", hint=hint
        )
    download(source.file, folder=data_dir, bases=places(source.file), hint=hint)


def by_hand(source: Source, *, data_dir: Path) -> str:
    """Return what a person can do to get the data where the download fails."""
    file = source.file
    return (
        f"Put {file.name} ({file.size_bytes:,} bytes, md5 {file.md5}) into {data_dir.resolve()},"
        f" or set ${MIRROR_VARIABLE} to the base URL of a mirror (several with commas),"
        f" or run `bench data import {source.name} FOLDER` on a folder with train/ and test/,"
        " one folder of images per class in each."
    )


def archive_problem(source: Source, *, data_dir: Path) -> str | None:
    """Return what is wrong with the archive in the data folder, or None."""
    path = data_dir / source.file.name
    with storage_errors(data_dir):
        size_bytes, md5 = path.stat().st_size, md5_of(path)
    if md5 == source.file.md5:
        return None
    return (
        f"it has {size_bytes:,} bytes and md5 {md5},"
        f" expected {source.file.size_bytes:,} bytes and md5 {source.file.md5}"
    )


def read_archive(source: Source, *, data_dir: Path) -> Dataset:
    """Decode the official archive in the data folder, after checking that it is the one."""
    path = data_dir / source.file.name
    problem = archive_problem(source, data_dir=data_dir)
    if problem is not None:
        raise DataError(
            f"{path} is incomplete or damaged: {problem}.",
            hint=f"Delete it and run `bench data fetch {source.name}` to fetch it again.",
        )
    return _decoded(source, archive.read_members(path, source.members))


def _read_unpacked(source: Source, *, data_dir: Path) -> Dataset:
    """Decode what others have unpacked of the archive, and check that it is all of it."""
    members = {name: _member(data_dir / name) for name in source.members}
    dataset = _decoded(source, members)
    counts, expected = (
        (len(dataset.train), len(dataset.test)),
        (source.train_count, source.test_count),
    )
    if counts != expected or source.fingerprint not in (None, dataset.info.fingerprint):
        raise DataError(
            f"{(data_dir / source.members[0]).parent} does not hold the official {source.name}:"
            f" {counts[0]:,} + {counts[1]:,} images, fingerprint {dataset.info.fingerprint}.",
            hint=f"Remove that folder and run `bench data fetch {source.name}`.",
        )
    return dataset


def _member(path: Path) -> bytes:
    try:
        return read_limited(path, limit_bytes=archive.LARGEST_MEMBER_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason_of(error)}.") from None


def _decoded(source: Source, members: Mapping[str, bytes]) -> Dataset:
    train, test = (
        archive.read_split(
            members,
            names,
            labels_key=source.labels_key,
            num_classes=len(source.class_names),
        )
        for names in (source.train_members, source.test_members)
    )
    return described_as(source, train, test)


def described_as(source: Source, train: ImageSet, test: ImageSet) -> Dataset:
    """Return the data set of these two splits, each in canonical order."""
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
