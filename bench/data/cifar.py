"""CIFAR-10 and CIFAR-100: where they come from, what they must look like, how they get to disk.

torchvision fetches, unpacks and reads the official files, each after its md5: of what is not theirs
nothing is unpickled. The other source is a folder of image files (`bench data import`).
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from bench.data import cache
from bench.data.catalogue import DATASETS
from bench.data.image_files import LAYOUT, ImageFiles, Listing, in_one_array, list_splits
from bench.data.images import Dataset, ImageSet, described, in_canonical_order
from bench.errors import DataError, UnknownNameError
from bench.plain_text import one_line, some

Network = Literal["allowed", "forbidden"]
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
class Cifar:
    """Facts about one CIFAR, and its customary preparation."""

    name: str
    class_names: tuple[str, ...]  # in label order, which for both is alphabetic
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str | None = None  # of the official pixels, where it is known
    train_count: int = 50_000
    test_count: int = 10_000


SOURCES = {
    "cifar10": Cifar(
        "cifar10",
        tuple(CIFAR10_CLASSES.split()),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        # Of a lossless copy whose channel means and deviations are the published ones to the
        # last digit (train mean 125.306918, 122.950394, 113.865383).
        fingerprint="da16546c3218b6d8",
    ),
    "cifar100": Cifar(
        "cifar100",
        tuple(CIFAR100_CLASSES.split()),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
}


def load_cifar(name: str, *, data_dir: Path, network: Network) -> Dataset:
    """Return `name` from its decoded copy, or from the official files, of which one is then kept.

    What is missing of the official files is unpacked and fetched, if the network is allowed.

    Raises:
        DataError: they are not there, and no place gives them.
    """
    from torchvision import datasets

    cifar, decoded = SOURCES[name], data_dir / name / cache.FILE_NAME
    cached = cache.load(decoded, source=name)
    if cached is not None:
        return cached
    kind: Any = getattr(datasets, name.upper())
    try:
        train, test = (
            kind(data_dir, train=split, download=network == "allowed") for split in (True, False)
        )
    except Exception as error:  # also what a server answers
        why = one_line(str(error)) if network == "allowed" else "they are missing or damaged."
        raise DataError(
            f"The official files of {DATASETS[name].title} are not in {data_dir}: {why}",
            hint=f"`bench data fetch {name}` downloads them ({kind.url}). Where it cannot, put"
            f" {kind.filename} (md5 {kind.tgz_md5}) into {data_dir.resolve()} and run it again, or"
            f" run `bench data import {name} FOLDER` on a folder with train/ and test/, one folder"
            " of images per class in each.",
        ) from None
    images = (
        ImageSet(torch.tensor(split.data).contiguous(), torch.tensor(split.targets))
        for split in (train, test)
    )
    dataset = _described(cifar, *images)
    cache.save(dataset, decoded, source=name)
    return dataset


def _described(cifar: Cifar, train: ImageSet, test: ImageSet) -> Dataset:
    return described(
        in_canonical_order(train),
        in_canonical_order(test),
        name=cifar.name,
        title=DATASETS[cifar.name].title,
        class_names=cifar.class_names,
        constants=(cifar.mean, cifar.std),
        pad=4,
        flip=True,
    )


def import_folder(name: str, folder: Path, *, data_dir: Path) -> Dataset:
    """Decode `folder` as the data set `name` and keep the decoded copy in `data_dir`.

    Lossy files (JPEG) are accepted, with a warning where the official fingerprint is known.

    Raises:
        DataError: its classes, or the number or size of its images, are not those of `name`.
    """
    if name not in SOURCES:
        raise UnknownNameError("data set to import", name, SOURCES)
    cifar, (train, test) = SOURCES[name], list_splits(folder)
    dataset = _described(
        cifar,
        _decoded(train, cifar, count=cifar.train_count),
        _decoded(test, cifar, count=cifar.test_count),
    )
    found = dataset.info.fingerprint
    if cifar.fingerprint not in (None, found):
        warnings.warn(
            f"The pixels or labels are not exactly those of the official {name} (fingerprint"
            f" {found}, official {cifar.fingerprint}): the images may have been stored with loss."
            " Results will not be comparable to the last digit.",
            cache.DataWarning,
            stacklevel=2,
        )
    cache.save(dataset, data_dir / name / cache.FILE_NAME, source=name)
    return dataset


def _decoded(listing: Listing, cifar: Cifar, *, count: int) -> ImageSet:
    differing = sorted({*listing.class_names} ^ {*cifar.class_names})
    if differing:
        raise DataError(
            f"The class folders in {listing.folder} are not those of {cifar.name}: only one of them"
            f" has {some(differing)}.",
            hint=f"The folders must be called {', '.join(cifar.class_names[:3])} and so on.",
        )
    counts = Counter(listing.class_names[label] for label in listing.labels)
    each = count // len(cifar.class_names)
    odd = [f"{name} {found:,}" for name, found in counts.items() if found != each]
    if odd:
        raise DataError(
            f"{listing.folder} must have {each:,} images of each class; found {some(odd)}.",
            hint=LAYOUT,
        )
    files = ImageFiles(listing.files, listing.labels)
    images_nhwc, _ = in_one_array(files, title=f"Decoding {listing.folder.name}")
    height, width = images_nhwc.shape[1:3]
    if (height, width) != SIZE_HW:
        raise DataError(
            f"The images in {listing.folder} are {height}x{width}, expected 32x32.",
            hint="Take images of the original size: nothing is resized here.",
        )
    return ImageSet(images_nhwc, torch.tensor(listing.labels))
