"""A data set by its name, wherever it has to come from; and what lies in the data folder.

Owns the choice of the loader and the report of `bench data verify`. How each data set is read is
its own module's business.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.data import cache, cifar
from bench.data.catalogue import DATASETS
from bench.data.cifar import Network
from bench.data.images import Dataset
from bench.errors import DataError, UnknownNameError
from bench.plain_text import one_line, tame

Status = Literal["ok", "missing", "incomplete", "broken", "embedded"]


@dataclass(frozen=True, slots=True)
class FileReport:
    """The state of one file of a data set."""

    file: Path | None  # None for a data set that needs no file
    size_bytes: int | None  # None if there is no file
    status: Status
    detail: str


def load_dataset(name: str, *, data_dir: Path, network: Network = "allowed") -> Dataset:
    """Return the data set `name`: one of the catalogue, or a path to a folder of images.

    Whatever had to be decoded is kept decoded in `data_dir`.
    """
    if name == "digits":
        from bench.data.digits import load_digits

        return load_digits()
    if name == "synthetic":
        from bench.data.synthetic import load_synthetic

        return load_synthetic()
    if name in cifar.SOURCES:
        return cifar.load_cifar(name, data_dir=data_dir, network=network)
    return _load_folder(_folder_of(name), data_dir=data_dir)


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
    raise UnknownNameError("data set", name, DATASETS)


def _load_folder(folder: Path, *, data_dir: Path) -> Dataset:
    from bench.data.folder import list_splits, read_folder, stamp

    splits = list_splits(folder)
    source = stamp(folder, splits)
    decoded = _folder_cache(folder, data_dir=data_dir)
    cached = cache.load(decoded, source=source)
    if cached is not None:
        return cached
    dataset = read_folder(folder, splits)
    cache.save(dataset, decoded, source=source)
    return dataset


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
    from bench.data.folder import list_splits, stamp

    folder = _folder_of(name)
    source = stamp(folder, list_splits(folder))
    return (_verify_decoded(_folder_cache(folder, data_dir=data_dir), source=source),)


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
