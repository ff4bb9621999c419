"""A data set by its name, wherever it has to come from.

Owns the choice of the loader and how much memory images may take. How each data set is read is its
own module's business.
"""

from __future__ import annotations

import os
from pathlib import Path

from bench.data import cifar
from bench.data.catalogue import DATASETS
from bench.data.cifar import Network
from bench.data.embedded import load_digits, load_graded_digits
from bench.data.folder import Folder
from bench.data.images import Dataset
from bench.data.plugin import PLUGINS, DatasetPlugin
from bench.data.vision import vision_named
from bench.errors import BenchError, DataError, PluginError, UnknownNameError
from bench.machine import memory_bytes, usable_cores
from bench.plain_text import one_line

# Images in memory are held four times: as they are, padded, and once more while each is made. Of
# all memory, not of what is free: whether images are streamed may not depend on what else runs.
_SHARE = 16

_EMBEDDED = {"digits": load_digits, "graded_digits": load_graded_digits}


def load_dataset(
    name: str, *, data_dir: Path, network: Network = "allowed", workers: int | None = None
) -> Dataset:
    """Return the data set `name`: a built-in or a plugin's, one of torchvision's, or a folder.

    Whatever had to be decoded is kept decoded in `data_dir`. What is too large for memory is read
    while it is used, by `workers` processes: as many as there are cores, if not given.

    Raises:
        PluginError: a plugin's code raised something, or returned no data set of its name.
    """
    if name in _EMBEDDED:
        return _EMBEDDED[name]()
    if name in cifar.SOURCES:
        return cifar.load_cifar(name, data_dir=data_dir, network=network)
    plugin = _named(name) or _folder_named(name)
    workers = workers or max(1, int(usable_cores()))
    try:
        dataset = plugin.load(data_dir, workers=workers, room_bytes=memory_bytes() // _SHARE)
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


def summary(dataset: Dataset) -> str:
    """Return a data set in a line."""
    info, counts = dataset.info, f"{len(dataset.train):,} + {len(dataset.test):,} images"
    return f"{info.title}: {counts}, {info.height} x {info.width}, fingerprint {info.fingerprint}"


def is_named(name: str) -> bool:
    """Whether `name` is that of a data set, not a folder's."""
    return name in DATASETS or _named(name) is not None


def _named(name: str) -> DatasetPlugin | None:
    if name in PLUGINS.names():
        return PLUGINS.get(name)()
    found = vision_named(name)
    return None if found is None or Path(name).exists() else found


def _folder_named(name: str) -> Folder:
    """Return the data set in the folder at the path `name`.

    Raises:
        DataError: there can be no folder of that name.
        UnknownNameError: it looks like a name, and there is no such folder.
    """
    try:
        folder = Path(name).expanduser()
        if any(separator in name for separator in ("/", os.sep)) or folder.exists():
            return Folder(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null, a loop, ~nobody
        raise DataError(f"There is no folder {one_line(name)}: {one_line(str(error))}.") from None
    raise UnknownNameError("data set", name, [*DATASETS, *PLUGINS.names()])
