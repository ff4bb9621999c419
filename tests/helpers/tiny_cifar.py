"""A CIFAR-10 of sixty random images in the official format, built for the tests of this folder."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from bench.data.images import ImageSet

FOLDER, ARCHIVE = CIFAR10.base_folder, CIFAR10.filename
CLASSES = ("airplane", "automobile", "bird", "cat", "deer")
CLASSES += ("dog", "frog", "horse", "ship", "truck")
TINY_TRAIN = 40
TINY_TEST = 20


def tar_of(members: Mapping[str, bytes]) -> bytes:
    """Return a gzipped tar with these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class TinyCifar:
    """A CIFAR-10 of a few random images: its pixels, its files, its archive."""

    train: ImageSet
    test: ImageSet
    members: dict[str, bytes]
    archive: bytes

    def put_archive(self, folder: Path, content: bytes | None = None) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ARCHIVE
        path.write_bytes(self.archive if content is None else content)
        return path

    def put_folder(self, folder: Path) -> Path:
        for split, images in (("train", self.train), ("test", self.test)):
            for i, (pixels, label) in enumerate(
                zip(images.images_nhwc, images.labels_n.tolist(), strict=True)
            ):
                place = folder / split / CLASSES[label]
                place.mkdir(parents=True, exist_ok=True)
                # Names that sort in another order than the archive's.
                Image.fromarray(pixels.numpy()).save(place / f"{997 * i % 1000:03d}.png")
        return folder


def random_images(count: int, *, seed: int, classes: int = 10) -> ImageSet:
    """Return noise with the classes in turn."""
    draws = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 32, 32, 3), dtype=torch.uint8, generator=draws)
    return ImageSet(pixels, torch.arange(count) % classes)


def _member(images: ImageSet, span: slice) -> bytes:
    rows = images.images_nhwc[span].permute(0, 3, 1, 2).flatten(1).contiguous().numpy()
    return pickle.dumps({"data": rows, "labels": images.labels_n[span].tolist()}, protocol=2)


def make_tiny_cifar() -> TinyCifar:
    """Return the tiny data set, its batches split as the official archive splits them."""
    train, test = random_images(TINY_TRAIN, seed=1), random_images(TINY_TEST, seed=2)
    folder, share = FOLDER, TINY_TRAIN // 5
    members = {
        f"{folder}/data_batch_{i + 1}": _member(train, slice(i * share, (i + 1) * share))
        for i in range(5)
    }
    members[f"{folder}/test_batch"] = _member(test, slice(None))
    members[f"{folder}/batches.meta"] = pickle.dumps({"label_names": list(CLASSES)}, protocol=2)
    return TinyCifar(train, test, members, tar_of(members))


def checksums(members: Mapping[str, bytes], archive: bytes) -> dict[str, Any]:
    """Return what torchvision's CIFAR10 has to expect to take these files as the official ones."""
    md5 = {name.rpartition("/")[2]: hashlib.md5(data).hexdigest() for name, data in members.items()}
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5.pop("batches.meta")}
    test = [["test_batch", md5.pop("test_batch")]]
    return {
        "train_list": [list(item) for item in md5.items()],
        "test_list": test,
        "meta": meta,
        "tgz_md5": hashlib.md5(archive).hexdigest(),
        "url": "http://127.0.0.1:9",  # nothing listens there
    }
