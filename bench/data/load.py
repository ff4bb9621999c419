"""A data set by its name, wherever it has to come from; and what lies in the data folder.

Owns the choice of the loader and the report of `bench data verify`. How each data set is read is
its own module's business.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sized
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from bench.data import cache, cifar
from bench.data.catalogue import DATASETS
from bench.data.cifar import Network
from bench.data.embedded import load_digits, load_graded_digits, load_synthetic
from bench.data.folder import (
    DifferentSizesError,
    Listing,
    image_size,
    list_splits,
    read_folder,
    stamp,
)
from bench.data.images import Dataset
from bench.data.photos import FILE_NAME, LEFT_OUT, known, leave_out_broken, left_out, stream_folder
from bench.data.plugin import PLUGINS, DatasetPlugin
from bench.errors import BenchError, DataError, PluginError, UnknownNameError
from bench.machine import available_memory_bytes, usable_cores
from bench.plain_text import one_line, slug

# Images in memory are held four times: as they are, padded, and once more while each is made. And
# half of the memory is for everything else.
_SHARE = 8

_EMBEDDED = {
    "digits": load_digits,
    "graded_digits": load_graded_digits,
    "synthetic": load_synthetic,
}

Status = Literal["ok", "missing", "incomplete", "broken", "embedded"]


class FileReport(NamedTuple):
    """The state of one file of a data set."""

    file: Path | None  # None for a data set that needs no file
    status: Status
    detail: str


def load_dataset(
    name: str, *, data_dir: Path, network: Network = "allowed", workers: int | None = None
) -> Dataset:
    """Return the data set `name`: a built-in or a plugin's, one of torchvision's, or a folder.

    Whatever had to be decoded is kept decoded in `data_dir`. What is too large for memory is read
    while it is used, by `workers` processes: as many as there are cores, if not given.
    """
    workers = workers or max(1, int(usable_cores()))
    if name in _EMBEDDED:
        return _EMBEDDED[name]()
    if name in cifar.SOURCES:
        return cifar.load_cifar(name, data_dir=data_dir, network=network)
    room_bytes = available_memory_bytes() // _SHARE
    plugin = PLUGINS.get(name)() if name in PLUGINS.names() else _vision_named(name)
    if plugin is not None:
        return _loaded(plugin, data_dir, workers=workers, room_bytes=room_bytes)
    return _load_folder(_folder_of(name), data_dir=data_dir, workers=workers, room_bytes=room_bytes)


def is_named(name: str) -> bool:
    """Whether `name` is that of a data set, not a folder's."""
    return name in DATASETS or name in PLUGINS.names() or _vision_named(name) is not None


def _vision_named(name: str) -> DatasetPlugin | None:
    from bench.data.vision import vision_named

    found = vision_named(name)
    return None if found is None or Path(name).exists() else found


def _loaded(plugin: DatasetPlugin, data_dir: Path, *, workers: int, room_bytes: int) -> Dataset:
    """Return a plugin's data set; what goes wrong in its code is told in a line.

    Raises:
        PluginError: its code raised something, or what it returned is no data set of its name.
    """
    try:
        dataset = plugin.load(data_dir, workers=workers, room_bytes=room_bytes)
    except BenchError:
        raise
    except Exception as error:
        said = one_line(f"{type(error).__name__}: {error}")
        raise PluginError(f"The data set '{plugin.name}' cannot be loaded: {said}") from error
    if not isinstance(dataset, Dataset) or dataset.info.name != plugin.name:
        raise PluginError(
            f"load() of the data set '{plugin.name}' returns no Dataset of that name."
        )
    return dataset


def _folder_of(name: str) -> Path:
    try:
        folder = Path(name).expanduser()
        if any(separator in name for separator in ("/", os.sep)) or folder.exists():
            return folder.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null, a loop, ~nobody
        raise DataError(f"There is no folder {one_line(name)}: {one_line(str(error))}.") from None
    raise UnknownNameError("data set", name, [*DATASETS, *PLUGINS.names()])


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder of images: what is listed of it, and where what was found of it before lies."""

    splits: tuple[Listing, Listing]
    source: str  # changes when the folder does
    decoded: Path
    index: Path


def _listed(folder: Path, data_dir: Path) -> _Folder:
    # Two folders may have the same last name.
    place = hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
    kept = data_dir / f"folder-{slug(folder.name)}-{place}"
    splits = list_splits(folder, without=left_out(folder, kept / LEFT_OUT))
    return _Folder(splits, stamp(folder, splits), kept / cache.FILE_NAME, kept / FILE_NAME)


def _load_folder(path: Path, *, data_dir: Path, workers: int, room_bytes: int) -> Dataset:
    folder = _listed(path, data_dir)
    cached = cache.load(folder.decoded, source=folder.source)
    if cached is not None:
        return cached
    train, test = folder.splits
    height, width = image_size(train.files[0])
    size_bytes = 3 * height * width * (len(train.files) + len(test.files))
    # What was streamed before is streamed again: whether it is may not depend on what else runs.
    if known(folder.index, source=folder.source) is None and size_bytes <= room_bytes:
        with suppress(DifferentSizesError):
            dataset = read_folder(path, folder.splits)
            cache.save(dataset, folder.decoded, source=folder.source)
            return dataset
    return stream_folder(
        path, folder.splits, index=folder.index, source=folder.source, workers=workers
    )


def verify(name: str, *, data_dir: Path) -> tuple[FileReport, ...]:
    """Report on every file that the data set `name` has or could have; changes nothing."""
    if name in _EMBEDDED:
        detail = f"needs no file; fingerprint {_EMBEDDED[name]().info.fingerprint}"
        return (FileReport(None, "embedded", detail),)
    if name in cifar.SOURCES:
        return _verify_cifar(cifar.SOURCES[name], data_dir)
    path = _folder_of(name)
    folder = _listed(path, data_dir)
    found = known(folder.index, source=folder.source)
    if found is not None:
        counts = _counted(found["train"], found["test"])
        detail = f"{counts}, read while they are used; fingerprint {found['fingerprint']}"
        return (FileReport(folder.index, "ok", detail),)
    if not folder.decoded.exists():
        counts = _counted(*(split.files for split in folder.splits))
        return (FileReport(path, "ok", f"{counts}, looked at when first used"),)
    return (_verify_decoded(folder.decoded, source=folder.source),)


def skip_broken(name: str, *, data_dir: Path) -> list[str]:
    """Leave out, from now on, what cannot be read of a folder of images; return what is wrong.

    Raises:
        ConfigError: `name` is no folder.
    """
    path = _folder_of(name)
    return leave_out_broken(path, _listed(path, data_dir).decoded.with_name(LEFT_OUT))


def _counted(train: Sized, test: Sized) -> str:
    return f"{len(train):,} + {len(test):,} images"


def _verify_cifar(source: cifar.CifarArchive, data_dir: Path) -> tuple[FileReport, ...]:
    decoded = cifar.cache_path(source.name, data_dir=data_dir)
    archive, folder = data_dir / source.file.name, data_dir / source.folder
    if archive.exists():
        problem = cifar.archive_problem(source, data_dir=data_dir)
        said = problem or f"md5 {source.file.md5}"
        of_archive = FileReport(archive, "broken" if problem else "ok", said)
    else:
        of_archive = FileReport(archive, "missing", "only needed while there is no decoded copy")
    if decoded.exists() or archive.exists():
        reports = [_verify_decoded(decoded, source=source.name), of_archive]
    elif folder.is_dir():
        reports = [FileReport(folder, "ok", "unpacked; checked and decoded at the next use")]
    else:
        size = f"{source.file.size_bytes / 2**20:.0f} MiB"
        way = f"not here: bench data fetch {source.name} ({size})"
        reports = [FileReport(decoded, "missing", way)]
    leftovers: tuple[tuple[Path, Status, str], ...] = (
        (archive.with_name(archive.name + ".part"), "incomplete", "an unfinished download"),
        (decoded.with_name(decoded.name + ".broken"), "broken", "set aside; can be deleted"),
    )
    return (*reports, *(FileReport(*leftover) for leftover in leftovers if leftover[0].exists()))


def _verify_decoded(path: Path, *, source: str) -> FileReport:
    if not path.exists():
        return FileReport(path, "missing", "the decoded copy is made at the first use")
    try:
        dataset = cache.read(path, source=source)
    except cache.BrokenCacheError as broken:
        return FileReport(path, "broken", f"{broken}; it is made anew at the next use")
    if dataset is None:
        return FileReport(path, "ok", "of older images; it is made anew at the next use")
    counts = _counted(dataset.train, dataset.test)
    return FileReport(path, "ok", f"{counts}, fingerprint {dataset.info.fingerprint}")
