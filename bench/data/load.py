"""A data set by its name, wherever it has to come from; and what lies in the data folder.

Owns the choice of the loader and the report of `bench data verify`. How each data set is read is
its own module's business.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.data import cache, cifar
from bench.data.catalogue import DATASETS
from bench.data.cifar import Network
from bench.data.images import Dataset
from bench.data.plugin import PLUGINS, DatasetPlugin
from bench.errors import BenchError, DataError, PluginError, UnknownNameError
from bench.machine import available_memory_bytes, usable_cores
from bench.plain_text import one_line, tame

# Images in memory are held four times: as they are, padded, and once more while each is made. And
# half of the memory is for everything else.
_SHARE = 8

Status = Literal["ok", "missing", "incomplete", "broken", "embedded"]


@dataclass(frozen=True, slots=True)
class FileReport:
    """The state of one file of a data set."""

    file: Path | None  # None for a data set that needs no file
    size_bytes: int | None  # None if there is no file
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
    if name == "digits":
        from bench.data.digits import load_digits

        return load_digits()
    if name == "graded_digits":
        from bench.data.graded_digits import load_graded_digits

        return load_graded_digits()
    if name == "synthetic":
        from bench.data.synthetic import load_synthetic

        return load_synthetic()
    if name in cifar.SOURCES:
        return cifar.load_cifar(name, data_dir=data_dir, network=network)
    room_bytes = available_memory_bytes() // _SHARE
    if name in PLUGINS.names():
        return _loaded(PLUGINS.get(name)(), data_dir, workers=workers, room_bytes=room_bytes)
    vision = _vision_named(name)
    if vision is not None:
        return _loaded(vision, data_dir, workers=workers, room_bytes=room_bytes)
    return _load_folder(_folder_of(name), data_dir=data_dir, workers=workers, room_bytes=room_bytes)


def is_named(name: str) -> bool:
    """Whether `name` is that of a data set, not a folder's."""
    return name in DATASETS or name in PLUGINS.names() or _vision_named(name) is not None


def _vision_named(name: str) -> DatasetPlugin | None:
    from bench.data.vision import PREFIX, vision_named

    if Path(name).exists() or (os.sep in name and not name.startswith(PREFIX)):
        return None
    return vision_named(name)


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


def fetch(name: str, *, data_dir: Path) -> Dataset:
    """Make sure that `name` can be loaded without the network from now on, and return it."""
    return load_dataset(name, data_dir=data_dir, network="allowed")


def _folder_of(name: str) -> Path:
    try:
        folder = Path(name).expanduser()
        if any(separator in name for separator in ("/", os.sep)) or folder.exists():
            return folder.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null, a loop, ~nobody
        raise DataError(f"There is no folder {one_line(name)}: {one_line(str(error))}.") from None
    raise UnknownNameError("data set", name, [*DATASETS, *PLUGINS.names()])


def _load_folder(folder: Path, *, data_dir: Path, workers: int, room_bytes: int) -> Dataset:
    from bench.data.folder import DifferentSizesError, image_size, list_splits, read_folder, stamp
    from bench.data.photos import FILE_NAME, LEFT_OUT, known, left_out, stream_folder

    decoded = _folder_cache(folder, data_dir=data_dir)
    index = decoded.with_name(FILE_NAME)
    splits = list_splits(folder, without=left_out(folder, decoded.with_name(LEFT_OUT)))
    source = stamp(folder, splits)
    cached = cache.load(decoded, source=source)
    if cached is not None:
        return cached
    height, width = image_size(splits[0].files[0])
    size_bytes = 3 * height * width * sum(len(split.files) for split in splits)
    # What was streamed before is streamed again: whether it is may not depend on what else runs.
    if known(index, source=source) is None and size_bytes <= room_bytes:
        with suppress(DifferentSizesError):
            dataset = read_folder(folder, splits)
            cache.save(dataset, decoded, source=source)
            return dataset
    return stream_folder(folder, splits, index=index, source=source, workers=workers)


def _folder_cache(folder: Path, *, data_dir: Path) -> Path:
    # Two folders may have the same last name.
    place = hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
    return data_dir / f"folder-{tame(folder.name)}-{place}" / cache.FILE_NAME


def verify(name: str, *, data_dir: Path) -> tuple[FileReport, ...]:
    """Report on every file that the data set `name` has or could have; changes nothing."""
    if name in DATASETS and DATASETS[name].embedded:
        dataset = load_dataset(name, data_dir=data_dir)
        detail = f"needs no file; fingerprint {dataset.info.fingerprint}"
        return (FileReport(None, None, "embedded", detail),)
    if name in cifar.SOURCES:
        return _verify_cifar(name, data_dir=data_dir)
    return _verify_folder(_folder_of(name), data_dir=data_dir)


def skip_broken(name: str, *, data_dir: Path) -> list[str]:
    """Leave out, from now on, what cannot be read of a folder of images; return what is wrong.

    Raises:
        ConfigError: `name` is no folder.
    """
    from bench.data.photos import LEFT_OUT, leave_out_broken

    folder = _folder_of(name)
    return leave_out_broken(folder, _folder_cache(folder, data_dir=data_dir).with_name(LEFT_OUT))


def _verify_folder(folder: Path, *, data_dir: Path) -> tuple[FileReport, ...]:
    from bench.data.folder import list_splits, stamp
    from bench.data.photos import FILE_NAME, LEFT_OUT, known, left_out

    decoded = _folder_cache(folder, data_dir=data_dir)
    splits = list_splits(folder, without=left_out(folder, decoded.with_name(LEFT_OUT)))
    source, index = stamp(folder, splits), decoded.with_name(FILE_NAME)
    found = known(index, source=source)
    if found is None:
        return (_verify_decoded(decoded, source=source),)
    counts = f"{len(found['train']):,} + {len(found['test']):,} images"
    said = f"{counts}, read while they are used; fingerprint {found['fingerprint']}"
    return (FileReport(index, index.stat().st_size, "ok", said),)


def _verify_cifar(name: str, *, data_dir: Path) -> tuple[FileReport, ...]:
    source = cifar.SOURCES[name]
    decoded = cifar.cache_path(name, data_dir=data_dir)
    archive = data_dir / source.file.name
    if decoded.exists() or archive.exists():
        reports = [
            _verify_decoded(decoded, source=name),
            _verify_archive(source, data_dir=data_dir),
        ]
    elif all((data_dir / member).is_file() for member in source.members):
        folder = (data_dir / source.members[0]).parent
        reports = [FileReport(folder, None, "ok", "unpacked; checked and decoded at the next use")]
    else:
        way = f"not here: bench data fetch {name} ({source.file.size_bytes / 2**20:.0f} MiB)"
        reports = [FileReport(decoded, None, "missing", way)]
    leftovers: tuple[tuple[Path, Status, str], ...] = (
        (archive.with_name(archive.name + ".part"), "incomplete", "an unfinished download"),
        (decoded.with_name(decoded.name + ".broken"), "broken", "set aside; can be deleted"),
    )
    reports += [
        FileReport(path, path.stat().st_size, status, detail)
        for path, status, detail in leftovers
        if path.exists()
    ]
    return tuple(reports)


def _verify_decoded(path: Path, *, source: str) -> FileReport:
    if not path.exists():
        return FileReport(path, None, "missing", "the decoded copy is made at the first use")
    size_bytes = path.stat().st_size
    try:
        dataset = cache.read(path, source=source)
    except cache.BrokenCacheError as broken:
        return FileReport(path, size_bytes, "broken", f"{broken}; it is made anew at the next use")
    if dataset is None:
        return FileReport(
            path, size_bytes, "ok", "of older images; it is made anew at the next use"
        )
    counts = f"{len(dataset.train):,} + {len(dataset.test):,} images"
    return FileReport(path, size_bytes, "ok", f"{counts}, fingerprint {dataset.info.fingerprint}")


def _verify_archive(source: cifar.Source, *, data_dir: Path) -> FileReport:
    path = data_dir / source.file.name
    if not path.exists():
        return FileReport(path, None, "missing", "only needed while there is no decoded copy")
    size_bytes = path.stat().st_size
    problem = cifar.archive_problem(source, data_dir=data_dir)
    if problem is None:
        return FileReport(path, size_bytes, "ok", f"md5 {source.file.md5}")
    return FileReport(path, size_bytes, "broken", problem)
