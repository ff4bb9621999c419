"""Folders of images that are read while training: too large for memory, or of different sizes.

Every file is looked at once: whether it can be read, its size, a digest of its content. What was
found is kept, so that the next command begins at once. Owns the sizes that images are brought to.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.data.cache import write_whole
from bench.data.folder import (
    GREY_MODES,
    Listing,
    in_threads,
    list_splits,
    naming,
    opened,
    plain_name,
    without_remarks,
)
from bench.data.images import FINGERPRINT_LENGTH, Dataset, described
from bench.data.normalising import IMAGENET, spread
from bench.data.streaming import Streamed, Views
from bench.errors import DataError

FILE_NAME = "index-v1.json"
LEFT_OUT = "left-out.json"  # what is to be left out: {file: [size, time]}
SIDE = 224  # what networks for photos are made for; smaller images stay smaller
_STEP = 8
_SHOWN = 5
_GLANCE = 32  # a JPEG is decoded at an eighth of its size at least: all of its bytes are read


class ScannedFile(NamedTuple):
    """What a look at a file has found."""

    size_hw: tuple[int, int]
    grey: bool
    digest: bytes
    problem: str  # "" if it can be read


class Files:
    """Image files as a source of (image, label)."""

    def __init__(self, listing: Listing, *, mode: str) -> None:
        # One array: a list would be copied into every worker, page by page, as it is read.
        self._names = np.array([os.fsencode(file) for file in listing.files])
        self._labels, self._mode = listing.labels, mode

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        file = Path(os.fsdecode(self._names[place]))
        with without_remarks(), opened(file) as image:
            return image.convert(self._mode), self._labels[place]


def _scan(file: Path) -> ScannedFile:
    try:
        content = file.read_bytes()
        with opened(file, content=io.BytesIO(content)) as image:
            size_hw, grey = (image.height, image.width), image.mode in GREY_MODES
            image.draft(None, (_GLANCE, _GLANCE))
            image.load()
    except (DataError, OSError) as error:
        return ScannedFile((0, 0), False, b"", str(error).partition("\n")[0])
    return ScannedFile(size_hw, grey, hashlib.sha256(content).digest(), "")


def stream_folder(
    folder: Path, splits: tuple[Listing, Listing], *, index: Path, source: str, workers: int
) -> Dataset:
    """Return a listed folder as a data set out of memory; `index` keeps what was found.

    Raises:
        DataError: there are images that cannot be read; they are named.
    """
    found = known(index, source=source)
    if found is None:
        found = {"source": source, **_indexed(folder, splits)}
        write_whole(index, json.dumps(found).encode())
    size_hw = (found["size_hw"][0], found["size_hw"][1])
    views = views_for(size_hw, resize=found["resize"])
    train, test = (
        Streamed(
            Files(listing, mode="L" if found["grey"] else "RGB"),
            views,
            torch.tensor(listing.labels)[torch.tensor(found[split])],
            torch.tensor(found[split]),
            size_hw,
            workers,
        )
        for split, listing in zip(("train", "test"), splits, strict=True)
    )
    count = len(train) + len(test)
    named = naming(folder, splits[0])
    why = (
        "they have different sizes"
        if found["resize"]
        else f"they would take {3 * count * train.pixels / 2**30:.1f} GiB of memory"
    )
    remark = (
        f"{named['title']}: {count:,} images are read while they are used ({why}), at"
        f" {size_hw[0]} x {size_hw[1]} pixels; worker processes: {workers}"
    )
    constants = spread(IMAGENET, 1 if found["grey"] else 3)
    identity = found["fingerprint"]
    return described(train, test, constants=constants, identity=identity, remark=remark, **named)


def left_out(folder: Path, record: Path) -> list[Path]:
    """Return the files that are to be left out, those that were not changed since."""
    with suppress(OSError, ValueError):
        told: dict[str, list[int]] = json.loads(record.read_text())
        return [folder / name for name, state in told.items() if state == _state(folder / name)]
    return []


def leave_out_broken(folder: Path, record: Path) -> list[str]:
    """Look at all images of a folder, and note those to be left out; return what is wrong."""
    files = [file for split in list_splits(folder) for file in split.files]
    looks = in_threads(_scan, files, title=f"Looking at {plain_name(folder)}")
    broken = [file for file, look in zip(files, looks, strict=True) if look.problem]
    told = {str(file.relative_to(folder)): _state(file) for file in broken}
    write_whole(record, json.dumps(told).encode())
    return [look.problem for look in looks if look.problem]


def _state(file: Path) -> list[int]:
    with suppress(OSError):
        status = file.stat()
        return [status.st_size, status.st_mtime_ns]
    return []


def known(index: Path, *, source: str) -> dict[str, Any] | None:
    """Return what was found of a folder before, if it is still the same."""
    with suppress(OSError, ValueError):
        found = json.loads(index.read_text())
        if found["source"] == source:
            return dict(found)
    return None


def _indexed(folder: Path, splits: tuple[Listing, Listing]) -> dict[str, Any]:
    title = f"Looking at {plain_name(folder)}"
    looks = [in_threads(_scan, listing.files, title=title) for listing in splits]
    everything = [look for part in looks for look in part]
    problems = [look.problem for look in everything if look.problem]
    if problems:
        raise DataError(
            f"{len(problems):,} of {len(everything):,} images cannot be read.\n"
            + "\n".join(problems[:_SHOWN]),
            hint=f"Replace them, or leave them out: bench data verify {folder} --skip-broken",
        )
    size_hw, resize = size_for([look.size_hw for look in everything])
    total, orders = hashlib.sha256(f"{size_hw} {resize}".encode()), []
    for part, split in zip(looks, splits, strict=True):
        pairs = zip(part, split.labels, strict=True)
        keys = [look.digest + label.to_bytes(8, "little") for look, label in pairs]
        total.update(b"/".join(sorted(keys)))
        orders.append(sorted(range(len(keys)), key=keys.__getitem__))
    grey = all(look.grey for look in everything)
    found = {"grey": grey, "size_hw": size_hw, "resize": resize}
    fingerprint = total.hexdigest()[:FINGERPRINT_LENGTH]
    return {"fingerprint": fingerprint, **found, "train": orders[0], "test": orders[1]}


def size_for(sizes_hw: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], bool]:
    """Return the size that images are brought to, and whether they have to be.

    Images of one size up to SIDE keep it; else it is a square of SIDE, or of the median shorter
    side where that is less.
    """
    if len(set(sizes_hw)) == 1 and max(sizes_hw[0]) <= SIDE:
        return sizes_hw[0], False
    median = int(np.median([min(size) for size in sizes_hw]))
    side = min(SIDE, max(_STEP, median // _STEP * _STEP))
    return (side, side), True


def views_for(size_hw: tuple[int, int], *, resize: bool, flip: bool = True) -> Views:
    """Return the usual views of photos: random crops and flips, or the middle of the image."""
    from torchvision.transforms import v2

    training = [v2.RandomResizedCrop(size_hw, antialias=True)]
    training += [v2.RandomHorizontalFlip()] if flip else []
    middle = [v2.Resize(min(size_hw) * 8 // 7, antialias=True), v2.CenterCrop(size_hw)]
    return Views(v2.Compose(training), v2.Compose(middle if resize else [v2.Identity()]))
