"""Data sets as folders of image files: train/ and test/ or val/, each with one folder per class.

Owns listing and decoding into memory, where images are as they are stored; photos.py reads them
later, and resizes. Only formats that Pillow decodes by itself are read, never one that it hands to
another program.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch

from bench.console import progress
from bench.data.cache import DataWarning, storage_errors
from bench.data.images import Dataset, ImageSet, described, in_canonical_order
from bench.errors import DataError
from bench.plain_text import one_line, some

if TYPE_CHECKING:
    from PIL import Image

LAYOUT = "A data set folder has train/ and test/ (or val/), in each one folder of images per class."
TEST_NAMES = ("test", "val")
PAD_SHARE = 8  # training crops move by up to an eighth of the side, as is usual for CIFAR
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PCX", "SGI")
SKIPPING = (
    f"Formats: {', '.join(FORMATS)}. To leave out what cannot be read:"
    " bench data verify FOLDER --skip-broken"
)
GREY_MODES = ("1", "L")
COLOUR_MODES = ("RGB", "RGBA", "P", "LA", "PA", "CMYK", "YCbCr", "HSV", "LAB", "La", "RGBa", "RGBX")

Item = TypeVar("Item")
Found = TypeVar("Found")


class Listing(NamedTuple):
    """The image files of one split, sorted by class and name."""

    folder: Path
    class_names: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]  # one per file


class DifferentSizesError(DataError):
    """Images of one folder have different sizes: they do not fit into one tensor."""


def list_splits(folder: Path, *, without: Collection[Path] = ()) -> tuple[Listing, Listing]:
    """Return the (train, test) listings of a data set folder, with the same classes in both.

    Images lie in the folder of their class or deeper; one without a suffix, or with an unknown one,
    is known by its content. What is left out, a DataWarning counts and names, but for the files
    `without` which it is asked for.
    """
    left_out: list[Path] = []
    places = folder / "train", _test_folder(folder)
    train, test = (_list_split(place, left_out, frozenset(without)) for place in places)
    differing = sorted(set(train.class_names) ^ set(test.class_names))
    if differing:
        raise DataError(
            f"train/ and {places[1].name}/ in {folder} do not have the same classes"
            f" ({len(train.class_names):,} and {len(test.class_names):,}): only one of them has"
            f" {some(differing)}.",
            hint=LAYOUT,
        )
    if len(train.class_names) < 2:
        raise DataError(
            f"{folder} has only the class {_text(train.class_names[0])}; at least two are needed.",
            hint=LAYOUT,
        )
    if left_out:
        names = [one_line(_text(str(path.relative_to(folder)))) for path in left_out]
        warnings.warn(
            f"Left out of {folder}, as no images in a format that is read: {len(names):,}"
            f" ({some(names)}). Formats: {', '.join(FORMATS)}.",
            DataWarning,
            stacklevel=3,
        )
    return train, test


def _test_folder(folder: Path) -> Path:
    with storage_errors(folder):
        if not (folder / "train").is_dir():
            raise DataError(f"There is no folder {folder / 'train'}.", hint=LAYOUT)
        for name in TEST_NAMES:
            if (folder / name).is_dir():
                return folder / name
    raise DataError(
        f"There is neither test/ nor val/ in {folder}: nothing to measure accuracy on.",
        hint=f"Move some images of each class from train/ to test/. {LAYOUT}",
    )


def _list_split(folder: Path, left_out: list[Path], without: Collection[Path]) -> Listing:
    """Return the images of a split; add what is none to `left_out`."""
    entries = _entries(folder)
    classes = [path for path in entries if path.is_dir()]
    left_out += [path for path in entries if not path.is_dir()]
    files: list[Path] = []
    labels: list[int] = []
    for label, class_folder in enumerate(classes):
        listed = [path for path in _files_below(class_folder) if path not in without]
        images = [path for path in listed if _is_image(path)]
        if not images:
            raise DataError(f"There are no images in {class_folder}.", hint=LAYOUT)
        left_out += sorted({*listed} - {*images})
        files += images
        labels += [label] * len(images)
    if not files:
        raise DataError(f"There are no class folders in {folder}.", hint=LAYOUT)
    return Listing(folder, tuple(path.name for path in classes), tuple(files), tuple(labels))


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders, sorted; links to folders as they are."""
    for path in _entries(folder):
        # A link could lead in circles, and what is called an image should be one.
        if path.is_dir() and not path.is_symlink() and not _called_image(path):
            yield from _files_below(path)
        else:
            yield path


def _is_image(path: Path) -> bool:
    """Whether a file is to be read: its suffix says so, or its content.

    Raises:
        DataError: it is called an image and is no regular file.
    """
    from PIL import Image

    if _called_image(path):
        if not path.is_file():
            raise DataError(
                f"{path} is not a regular file.", hint="A link must lead to an image file."
            )
        return True
    # A file that is no image may raise anything.
    with suppress(Exception), without_remarks():
        if path.is_file():
            with Image.open(path, formats=FORMATS):
                return True
    return False


def _called_image(path: Path) -> bool:
    from PIL import Image

    return Image.registered_extensions().get(path.suffix.lower()) in FORMATS


def _entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted, without hidden names."""
    with storage_errors(folder):
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def stamp(folder: Path, listings: Sequence[Listing]) -> str:
    """Return a hash of names, sizes and times of all files: changes when the folder does."""
    total = hashlib.sha256()
    for file in (file for listing in listings for file in listing.files):
        with storage_errors(folder):
            status = file.stat()
        name = os.fsencode(file.relative_to(folder).as_posix())
        total.update(name + f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return total.hexdigest()


def image_size(file: Path) -> tuple[int, int]:
    """Return (height, width) of an image file."""
    with without_remarks(), opened(file) as image:
        return image.height, image.width


def in_threads(do: Callable[[Item], Found], items: Sequence[Item], *, title: str) -> list[Found]:
    """Return what `do` finds of each item, in their order."""
    from rich.progress import MofNCompleteColumn

    found: list[Found] = []
    with (
        without_remarks(),
        progress(title, MofNCompleteColumn(), total=len(items)) as advance,
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
    ):
        for one in pool.map(do, items):
            found.append(one)
            advance(1)
    return found


@contextmanager
def without_remarks() -> Iterator[None]:
    """Keep Pillow's remarks on damaged metadata quiet; what counts is whether pixels are read."""
    with warnings.catch_warnings():  # not in the threads that decode: they share the filters
        warnings.simplefilter("ignore")
        yield


@contextmanager
def opened(file: Path, *, content: IO[bytes] | None = None) -> Iterator[Image.Image]:
    """Open an image file of one of FORMATS, of which `content` may have been read before.

    Raises:
        DataError: it cannot be read, or not all of it; its pixels are no bytes.
    """
    from PIL import Image

    try:
        with Image.open(content or file, formats=FORMATS) as image:
            if image.mode not in GREY_MODES + COLOUR_MODES:
                raise DataError(
                    f"{file} has pixels of the kind '{image.mode}', which would lose depth.",
                    hint="Convert the images to 8 bits per channel, grey or RGB.",
                )
            yield image
    except DataError:
        raise
    except Exception as error:  # a damaged image may raise anything
        said = one_line(str(error)) or type(error).__name__
        raise DataError(f"Cannot read the image {file}: {said}.", hint=SKIPPING) from error


def decode(listing: Listing, *, size_hw: tuple[int, int], title: str) -> tuple[ImageSet, bool]:
    """Decode all files of a split, in threads; every image must have the size `size_hw`.

    Returns them in three channels, and whether all files were grey.
    """
    count = len(listing.files)
    images_nhwc = np.empty((count, *size_hw, 3), dtype=np.uint8)

    def into(place: int) -> bool:
        file = listing.files[place]
        with opened(file) as image:
            if (image.height, image.width) != size_hw:
                raise DifferentSizesError(
                    f"{file} is {image.height}x{image.width} pixels (height x width), expected"
                    f" {size_hw[0]}x{size_hw[1]}.",
                    hint="Resize the images to one size first; nothing is resized here.",
                )
            images_nhwc[place] = np.asarray(image.convert("RGB"))
            return image.mode in GREY_MODES

    grey = all(in_threads(into, range(count), title=title))
    labels_n = torch.tensor(listing.labels, dtype=torch.int64)
    return ImageSet(torch.from_numpy(images_nhwc), labels_n), grey


def plain_name(folder: Path) -> str:
    """Return the name of a folder as text that can be shown and stored, whatever it is called."""
    return one_line(_text(folder.name), longest=100)


def _text(name: str) -> str:
    # Bytes of a name that are no UTF-8 come as half letters, which no file or hash takes.
    return name.encode(errors="backslashreplace").decode()


def read_folder(folder: Path, splits: tuple[Listing, Listing]) -> Dataset:
    """Decode a listed data set folder; one channel if every file is grey, else three."""
    size_hw = image_size(splits[0].files[0])
    decoded = [
        decode(listing, size_hw=size_hw, title=f"Decoding {plain_name(folder)}/{split}")
        for listing, split in zip(splits, ("train", "test"), strict=True)
    ]
    channels = 1 if all(grey for _, grey in decoded) else 3
    train, test = (
        in_canonical_order(
            ImageSet(images.images_nhwc[..., :channels].contiguous(), images.labels_n)
        )
        for images, _ in decoded
    )
    pad = min(size_hw) // PAD_SHARE
    return described(train, test, pad=pad, flip=True, **naming(folder, splits[0]))


def naming(folder: Path, listing: Listing) -> dict[str, Any]:
    """Return what the data set in a folder is called: name, title and class names."""
    # "folder-", so that a folder called cifar10 is not taken for CIFAR-10.
    name, title = f"folder-{plain_name(folder)}", f"Images in {plain_name(folder)}/"
    return {"name": name, "title": title, "class_names": list(map(_text, listing.class_names))}
