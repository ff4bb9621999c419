"""Image files in folders: train/ and test/ or val/, each with one folder per class.

Owns which files are images, and how they are read; what becomes of them is others' business. Only
formats that Pillow decodes by itself are read, never one that it hands to another program.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from bench.console import progress
from bench.data.cache import DataWarning, storage_errors
from bench.data.streaming import ImageSource
from bench.errors import DataError
from bench.plain_text import one_line, some

if TYPE_CHECKING:
    from PIL import Image

LAYOUT = "A data set folder has train/ and test/ (or val/), in each one folder of images per class."
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PCX", "SGI")
REPLACE = "Replace what cannot be read, or delete it."
_GREY_MODES = ("1", "L")
_DEEP_MODES = ("I", "F")  # the beginnings of all modes of more than 8 bits per channel

Item = TypeVar("Item")
Found = TypeVar("Found")


class Listing(NamedTuple):
    """The image files of one split, sorted by class and name."""

    folder: Path
    class_names: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]  # one per file


def list_splits(folder: Path) -> tuple[Listing, Listing]:
    """Return the (train, test) listings of a data set folder, with the same classes in both.

    Images lie in the folder of their class or deeper, and are known by their suffix. Other files
    are left out, which a DataWarning tells.
    """
    with storage_errors(folder):
        tests = [folder / name for name in ("test", "val") if (folder / name).is_dir()]
        if not (folder / "train").is_dir():
            raise DataError(f"There is no folder {folder / 'train'}.", hint=LAYOUT)
        if not tests:
            raise DataError(f"There is neither test/ nor val/ in {folder}.", hint=LAYOUT)
        left_out: list[Path] = []
        train, test = (_list_split(split, left_out) for split in (folder / "train", tests[0]))
    differing = sorted(set(train.class_names) ^ set(test.class_names))
    if differing:
        raise DataError(
            f"train/ and {test.folder.name}/ in {folder} do not have the same classes: only one of"
            f" them has {some(differing)}.",
            hint=LAYOUT,
        )
    if len(train.class_names) < 2:
        raise DataError(
            f"{folder} has only the class {train.class_names[0]}; at least two are needed.",
            hint=LAYOUT,
        )
    if left_out:
        names = [one_line(as_text(str(path.relative_to(folder)))) for path in left_out]
        warnings.warn(
            f"Left out of {folder}, as no images in a format that is read: {len(names):,}"
            f" ({some(names)}). Formats: {', '.join(FORMATS)}.",
            DataWarning,
            stacklevel=3,
        )
    return train, test


def _list_split(folder: Path, left_out: list[Path]) -> Listing:
    """Return the images of a split; add what is none to `left_out`."""
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    classes = [path for path in entries if path.is_dir()]
    if not classes:
        raise DataError(f"There are no class folders in {folder}.", hint=LAYOUT)
    left_out += [path for path in entries if not path.is_dir()]
    files: list[Path] = []
    labels: list[int] = []
    for label, class_folder in enumerate(classes):
        found = _files_below(class_folder)
        images = [path for path in found if path.suffix.lower() in _suffixes() and path.is_file()]
        if not images:
            raise DataError(f"There are no images in {class_folder}.", hint=LAYOUT)
        left_out += sorted({*found} - {*images})
        files += images
        labels += [label] * len(images)
    names = tuple(as_text(path.name) for path in classes)
    return Listing(folder, names, tuple(files), tuple(labels))


def _files_below(folder: Path) -> list[Path]:
    """Return all but folders in a folder and its subfolders, sorted, without hidden names.

    A link to a folder counts as a file: it could lead in circles.
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if (path.is_symlink() or not path.is_dir())
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


@cache
def _suffixes() -> frozenset[str]:
    from PIL import Image

    registered = Image.registered_extensions().items()
    return frozenset(suffix for suffix, form in registered if form in FORMATS)


def as_text(name: str) -> str:
    """Return a file's name as text that can be shown and stored, whatever bytes it is made of."""
    return name.encode(errors="backslashreplace").decode()


def read_image(file: Path) -> Image.Image:
    """Return the image in a file.

    Raises:
        DataError: it cannot be read, or not all of it; its pixels are no bytes.
    """
    from PIL import Image

    try:
        with Image.open(file, formats=FORMATS) as image:
            image.load()
    except Exception as error:  # a damaged image may raise anything
        said = one_line(str(error)) or type(error).__name__
        raise DataError(f"Cannot read the image {file}: {said}.", hint=REPLACE) from error
    if image.mode.startswith(_DEEP_MODES):
        raise DataError(
            f"{file} has pixels of the kind '{image.mode}': convert it to 8 bits per channel.",
            hint=REPLACE,
        )
    return image


class ImageFiles:
    """Files as a source of (image, label)."""

    def __init__(self, files: Sequence[Path], labels: Sequence[int]) -> None:
        # One array: a list would be copied into every worker, page by page, as it is read.
        self._names = np.array([os.fsencode(file) for file in files])
        self.labels = labels

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, place: int) -> tuple[Image.Image, int]:
        return read_image(Path(os.fsdecode(self._names[place]))), self.labels[place]


def in_one_array(source: ImageSource, *, title: str) -> tuple[Tensor, bool]:
    """Return all images of a source, (N, H, W, 3) uint8, and whether all of them were grey.

    Raises:
        DataError: they have different sizes, or one cannot be read.
    """

    def picture(place: int) -> tuple[np.ndarray, bool]:
        image: Image.Image = source[place][0]
        return np.asarray(image.convert("RGB")), image.mode in _GREY_MODES

    found = in_threads(picture, range(len(source)), title=title)
    sizes = sorted({pixels.shape[:2] for pixels, _ in found})
    if len(sizes) > 1:
        shown = some([f"{height}x{width}" for height, width in sizes])
        raise DataError(f"{title}: the images have different sizes, {shown} (height x width).")
    images_nhwc = torch.from_numpy(np.stack([pixels for pixels, _ in found]))
    return images_nhwc, all(grey for _, grey in found)


def in_threads(do: Callable[[Item], Found], items: Sequence[Item], *, title: str) -> list[Found]:
    """Return what `do` finds of each item, in their order; what Pillow warns of stays unsaid."""
    found: list[Found] = []
    with (
        warnings.catch_warnings(action="ignore"),
        progress(title, total=len(items)) as advance,
        ThreadPoolExecutor() as pool,
    ):
        for one in pool.map(do, items):
            found.append(one)
            advance()
    return found
