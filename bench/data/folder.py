"""A folder of images as a data set, and what is kept of it in the data folder.

Every file is read once: whether it can be, its size, a digest of its content. What was found is
kept, and so are decoded images that fit into memory, until the folder changes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from bench.data import cache
from bench.data.cache import storage_errors, write_whole
from bench.data.image_files import (
    REPLACE,
    ImageFiles,
    Listing,
    as_text,
    in_threads,
    list_splits,
    read_image,
)
from bench.data.images import Dataset, ImageSet
from bench.data.photos import Sizes, photos, sizes_of
from bench.data.plugin import DatasetPlugin
from bench.errors import DataError
from bench.plain_text import one_line, slug

_INDEX = "index-v2.json"
_SHOWN = 20


class _Look(NamedTuple):
    """What a look at a file has found."""

    size_hw: tuple[int, int]
    digest: bytes
    problem: str  # "" if it can be read


def _look(file: Path) -> _Look:
    try:
        image = read_image(file)
        digest = hashlib.sha256(file.read_bytes()).digest()
    except (DataError, OSError) as error:
        return _Look((0, 0), b"", str(error).partition("\n")[0])
    return _Look((image.height, image.width), digest, "")


class Folder(DatasetPlugin):
    """The data set in one folder of images, given as an absolute path."""

    name, title = "folder", "Images in a folder"
    code = ""  # of its content, once it is loaded

    def __init__(self, path: Path) -> None:
        self._path, shown = path, one_line(as_text(path.name), longest=100)
        # "folder-", so that a folder called cifar10 is not taken for CIFAR-10.
        self.name = f"folder-{shown}"  # type: ignore[misc]
        self.title = f"Images in {shown}/"  # type: ignore[misc]

    def load(self, data_dir: Path, *, workers: int, room_bytes: int) -> Dataset:
        """Return it, from what is kept of it in `data_dir` if it has not changed.

        Raises:
            DataError: it is no data set, or has images that cannot be read; they are named.
        """
        kept, splits = self._kept(data_dir), list_splits(self._path)
        source = self._stamp(splits)
        cached = cache.load(kept / cache.FILE_NAME, source=source)
        if cached is not None:
            return cached
        index = _known(kept / _INDEX, source=source)
        if index is None:
            index = self._indexed(splits, source=source)
            write_whole(kept / _INDEX, json.dumps(index).encode())
        self.code = index["content"]
        train, test = (
            ImageFiles([split.files[n] for n in order], [split.labels[n] for n in order])
            for split, order in zip(splits, index["orders"], strict=True)
        )
        common_hw, median_side = index["sizes"]
        dataset = photos(
            self,
            train=train,
            test=test,
            labels=(train.labels, test.labels),
            sizes=Sizes(common_hw and tuple(common_hw), median_side),
            class_names=splits[0].class_names,
            workers=workers,
            room_bytes=room_bytes,
        )
        if isinstance(dataset.train, ImageSet):
            cache.save(dataset, kept / cache.FILE_NAME, source=source)
        return dataset

    def _kept(self, data_dir: Path) -> Path:
        # Two folders may have the same last name.
        place = hashlib.sha256(os.fsencode(self._path)).hexdigest()[:8]
        return data_dir / f"folder-{slug(self._path.name)}-{place}"

    def _stamp(self, splits: Sequence[Listing]) -> str:
        """Return a hash of names, sizes and times of all files: changes when the folder does."""
        total = hashlib.sha256()
        with storage_errors(self._path):
            for file in (file for listing in splits for file in listing.files):
                status = file.stat()
                name = os.fsencode(file.relative_to(self._path).as_posix())
                total.update(name + f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        return total.hexdigest()

    def _indexed(self, splits: Sequence[Listing], *, source: str) -> dict[str, Any]:
        """Look at all files; return what is to be known of them.

        Raises:
            DataError: some cannot be read; the first are named.
        """
        looks = [in_threads(_look, s.files, title=f"Looking at {self.title}") for s in splits]
        every = [look for found in looks for look in found]
        problems = [look.problem for look in every if look.problem]
        if problems:
            raise DataError(
                f"{len(problems):,} of {len(every):,} images cannot be read.\n"
                + "\n".join(problems[:_SHOWN]),
                hint=REPLACE,
            )
        content, orders = hashlib.sha256(), []
        for split, found in zip(splits, looks, strict=True):
            keys = [
                look.digest + label.to_bytes(8, "little")
                for look, label in zip(found, split.labels, strict=True)
            ]
            orders.append(sorted(range(len(keys)), key=keys.__getitem__))  # which mixes the classes
            content.update(b"/".join(sorted(keys)))
        return {
            "source": source,
            "content": content.hexdigest(),
            "sizes": sizes_of([look.size_hw for look in every]),
            "orders": orders,
        }


def _known(index: Path, *, source: str) -> dict[str, Any] | None:
    """Return what was found of a folder before, if it is still the same."""
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(index.read_text())
        if found["source"] == source:
            return found
    return None
