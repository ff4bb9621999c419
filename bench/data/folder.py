"""Data sets as folders of image files: train/ and test/, each with one folder per class.

Owns listing and decoding. Any image format that Pillow reads is fine.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data.identity import channel_statistics, fingerprint, in_canonical_order
from bench.data.images import Dataset, DatasetInfo, ImageSet
from bench.data.progress import item_progress
from bench.errors import DataError

LAYOUT = "A data set folder has train/ and test/, and in each one folder of images per class."
CHUNK_IMAGES = 256
PAD_SHARE = 8  # training crops move by up to an eighth of the side, as is usual for CIFAR
GREY_MODES = ("1", "L")
COLOUR_MODES = ("RGB", "RGBA", "P", "LA", "PA", "CMYK", "YCbCr", "HSV", "LAB", "La", "RGBa", "RGBX")


@dataclass(frozen=True, slots=True)
class Listing:
    """The image files of one split, sorted by class and name."""

    class_names: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]  # one per file


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """The pixels of one split, still in three channels, and whether all files were grey."""

    images: ImageSet
    grey: bool


def list_splits(folder: Path) -> tuple[Listing, Listing]:
    """Return the (train, test) listings of a data set folder, with the same classes in both."""
    train, test = (_list_split(folder / split) for split in ("train", "test"))
    differing = sorted(set(train.class_names) ^ set(test.class_names))
    if differing:
        raise DataError(
            f"train/ and test/ in {folder} do not have the same classes: only one of them has"
            f" {_some(differing)}.",
            hint=LAYOUT,
        )
    return train, test


def _list_split(folder: Path) -> Listing:
    from PIL import Image

    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.", hint=LAYOUT)
    suffixes = Image.registered_extensions()
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and _visible(path))
    files: list[Path] = []
    labels: list[int] = []
    for label, class_folder in enumerate(classes):
        inside = sorted(
            path
            for path in class_folder.iterdir()
            if path.suffix.lower() in suffixes and _visible(path)
        )
        if not inside:
            raise DataError(f"There are no images in {class_folder}.", hint=LAYOUT)
        files += inside
        labels += [label] * len(inside)
    if not files:
        raise DataError(f"There are no class folders in {folder}.", hint=LAYOUT)
    return Listing(tuple(path.name for path in classes), tuple(files), tuple(labels))


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def stamp(folder: Path, listings: Sequence[Listing]) -> str:
    """Return a hash of names, sizes and times of all files: changes when the folder does."""
    total = hashlib.sha256()
    for file in (file for listing in listings for file in listing.files):
        status = file.stat()
        name = file.relative_to(folder).as_posix()
        total.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return total.hexdigest()


def image_size(file: Path) -> tuple[int, int]:
    """Return (height, width) of an image file."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"Cannot read the image {file}: {error}.") from error


def decode(listing: Listing, *, size_hw: tuple[int, int], title: str) -> Decoded:
    """Decode all files of a split, in threads; every image must have the size `size_hw`."""
    count = len(listing.files)
    images_nhwc = np.empty((count, *size_hw, 3), dtype=np.uint8)
    starts = range(0, count, CHUNK_IMAGES)

    def decode_chunk(start: int) -> tuple[int, bool]:
        files = listing.files[start : start + CHUNK_IMAGES]
        grey = [_decode_into(images_nhwc[start + i], file) for i, file in enumerate(files)]
        return len(files), all(grey)

    all_grey = True
    with (
        item_progress(title, total=count) as advance,
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
    ):
        for done, grey in pool.map(decode_chunk, starts):
            advance(done)
            all_grey = all_grey and grey
    labels_n = torch.tensor(listing.labels, dtype=torch.int64)
    return Decoded(ImageSet(torch.from_numpy(images_nhwc), labels_n), all_grey)


def _decode_into(target_hwc: np.ndarray[Any, Any], file: Path) -> bool:
    """Decode one image into its place; return whether the file was grey."""
    from PIL import Image

    expected_hw = target_hwc.shape[:2]
    try:
        with Image.open(file) as image:
            mode, found_hw = image.mode, (image.height, image.width)
            if found_hw == expected_hw and mode in GREY_MODES + COLOUR_MODES:
                target_hwc[:] = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"Cannot read the image {file}: {error}.") from error
    if found_hw != expected_hw:
        raise DataError(
            f"{file} is {_size(found_hw)} pixels (height x width), expected {_size(expected_hw)}.",
            hint="Resize the images to one size first; nothing is resized here.",
        )
    if mode not in GREY_MODES + COLOUR_MODES:
        raise DataError(
            f"{file} has pixels of the kind '{mode}', which would lose depth.",
            hint="Convert the images to 8 bits per channel, grey or RGB.",
        )
    return mode in GREY_MODES


def _size(size_hw: tuple[int, ...]) -> str:
    return "x".join(map(str, size_hw))


def read_folder(folder: Path, splits: tuple[Listing, Listing]) -> Dataset:
    """Decode a listed data set folder; one channel if every file is grey, else three."""
    size_hw = image_size(splits[0].files[0])
    decoded = [
        decode(listing, size_hw=size_hw, title=f"Decoding {folder.name}/{split}")
        for listing, split in zip(splits, ("train", "test"), strict=True)
    ]
    channels = 1 if all(split.grey for split in decoded) else 3
    train, test = (
        in_canonical_order(
            ImageSet(split.images.images_nhwc[..., :channels].contiguous(), split.images.labels_n)
        )
        for split in decoded
    )
    mean, std = channel_statistics(train)
    info = DatasetInfo(
        name=f"folder-{folder.name}",  # so that a folder called cifar10 is not taken for CIFAR-10
        title=f"Images in {folder.name}/",
        class_names=splits[0].class_names,
        channels=channels,
        height=size_hw[0],
        width=size_hw[1],
        mean=mean,
        std=std,
        pad=min(size_hw) // PAD_SHARE,
        flip=True,
        synthetic=False,
        fingerprint=fingerprint(train, test),
    )
    return Dataset(info, train, test)
