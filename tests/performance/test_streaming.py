"""Memory and speed of streamed images, against a plain DataLoader with as many workers.

$BENCH_TEST_PHOTOS says how many JPEGs are made (20,000), $BENCH_TEST_WORKERS how many processes
read (one a core). Made once, below $BENCH_TEST_PHOTOS_DIR if it is given.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils import data as torch_data

from bench.data import load
from bench.data.augment import train_batches
from bench.data.images import Dataset
from bench.data.load import load_dataset
from bench.data.normalising import IMAGENET
from bench.data.streaming import Streamed, trainable
from bench.machine import usable_cores

pytestmark = pytest.mark.perf

COUNT = int(os.environ.get("BENCH_TEST_PHOTOS", "20000"))
WORKERS = int(os.environ.get("BENCH_TEST_WORKERS", max(1, int(usable_cores()))))
BATCH, PAIRS, STEPS, WARM = 64, 3, 40, 4
AIM_GIB, AIM_RATIO = 3.0, 0.9


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get("BENCH_TEST_PHOTOS_DIR")
    folder = (Path(given) if given else tmp_path_factory.mktemp("made")) / f"photos{COUNT}"
    if not folder.exists():
        draws = np.random.default_rng(0)
        for number in range(COUNT):
            split = "test" if number % 10 == 0 else "train"
            place = folder / split / f"class{number // 10 % 10}"
            place.mkdir(parents=True, exist_ok=True)
            coarse = draws.integers(0, 255, (28, 28, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((224, 224)).save(place / f"{number}.jpg", quality=90)
    return folder


@pytest.fixture(scope="module")
def streamed(photos: Path) -> Dataset:
    with pytest.MonkeyPatch.context() as little:  # also where the machine has much memory
        little.setattr(load, "memory_bytes", lambda: 0)
        started = time.perf_counter()
        found = load_dataset(str(photos), data_dir=photos.parent / "data", workers=WORKERS)
    print(f"\nlooked at {COUNT:,} files in {time.perf_counter() - started:.1f} s (once)")
    assert isinstance(found.train, Streamed)
    return found


def _ours(data: Dataset, epoch: int) -> Iterator[object]:
    return train_batches(
        trainable(data.train, data),
        batch_size=BATCH,
        mean=data.info.mean,
        std=data.info.std,
        generator=torch.Generator().manual_seed(epoch),
    )


def _plain(photos: Path) -> Iterable[object]:
    """Return what most people write: ImageFolder, v2 transforms, DataLoader."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    mean, std = IMAGENET
    view = v2.Compose(
        [
            v2.RandomResizedCrop(224, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )
    return torch_data.DataLoader(
        ImageFolder(str(photos / "train"), view),
        batch_size=BATCH,
        shuffle=True,
        num_workers=WORKERS,
    )


def _images_per_s(batches: Callable[[], Iterable[object]]) -> float:
    taken = islice(batches(), WARM + STEPS)
    for _ in islice(taken, WARM):
        pass
    started = time.perf_counter()
    steps = sum(1 for _ in taken)
    return steps * BATCH / (time.perf_counter() - started)


def test_streaming_is_about_as_fast_as_a_plain_dataloader(streamed: Dataset, photos: Path) -> None:
    ratios: list[float] = []
    for pair in range(PAIRS):
        ours = _images_per_s(partial(_ours, streamed, pair))
        plain = _images_per_s(lambda: _plain(photos))
        ratios.append(ours / plain)
        print(f"\n{ours:.0f} images/s streamed, {plain:.0f} by a plain DataLoader", end="")
    print(f"\nratio: median {median(ratios):.2f}, {WORKERS} workers; aim {AIM_RATIO}")
    assert median(ratios) >= AIM_RATIO


def test_an_epoch_of_streamed_photos_stays_under_three_gib(streamed: Dataset) -> None:
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("reads /proc")
    with _peak_bytes() as peak:
        images = sum(BATCH for _ in _ours(streamed, 0))
    gib = max(peak) / 2**30
    print(f"\npeak of this process and its workers: {gib:.2f} GiB in {images:,} images; aim 3")
    assert gib < AIM_GIB


@contextmanager
def _peak_bytes() -> Iterator[list[int]]:
    """Collect, every half second, what this process and its children hold, shared pages once."""
    found, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            found.append(sum(map(_held_bytes, _family())))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def _family() -> list[int]:
    own = os.getpid()
    children = [Path(f"/proc/{own}/task/{task}/children") for task in os.listdir("/proc/self/task")]
    found = [int(pid) for file in children if file.exists() for pid in file.read_text().split()]
    return [own, *found]


def _held_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
