"""A CIFAR-10 of sixty random images in the official format, built for the tests of this folder."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.data import cifar
from bench.data.cifar import Source
from bench.data.images import ImageSet

TINY_TRAIN = 40
TINY_TEST = 20


def _text(value: bytes) -> bytes:
    return pickle.BINSTRING + struct.pack("<i", len(value)) + value


def _number(value: int) -> bytes:
    return pickle.BININT + struct.pack("<i", value)


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def python2_pickle(rows: np.ndarray[Any, Any], labels: list[int], labels_key: str) -> bytes:
    """Write a batch as Python 2 with an old numpy wrote it: byte strings, numpy.core."""
    array_type = _global("numpy", "ndarray") + _number(0) + pickle.TUPLE1 + _text(b"b")
    dtype = _global("numpy", "dtype") + _text(b"u1") + _number(0) + _number(1)
    dtype += pickle.TUPLE3 + pickle.REDUCE + pickle.MARK + _number(3) + _text(b"|")
    dtype += pickle.NONE * 3 + _number(-1) * 2 + _number(0) + pickle.TUPLE + pickle.BUILD
    shape = b"".join(map(_number, rows.shape)) + pickle.TUPLE2
    array = _global("numpy.core.multiarray", "_reconstruct") + array_type
    array += pickle.TUPLE3 + pickle.REDUCE + pickle.MARK + _number(1) + shape + dtype
    array += pickle.NEWFALSE + _text(rows.tobytes()) + pickle.TUPLE + pickle.BUILD
    numbers = pickle.EMPTY_LIST + pickle.MARK + b"".join(map(_number, labels)) + pickle.APPENDS
    fields = _text(b"data") + array + _text(labels_key.encode()) + numbers
    return pickle.PROTO + b"\2" + pickle.EMPTY_DICT + pickle.MARK + fields + pickle.SETITEMS + b"."


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
    """A CIFAR-10 of a few random images: its pixels, its archive, its card."""

    train: ImageSet
    test: ImageSet
    members: dict[str, bytes]
    archive: bytes
    source: Source

    def put_archive(self, folder: Path, content: bytes | None = None) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.source.file.name
        path.write_bytes(self.archive if content is None else content)
        return path

    def put_folder(self, folder: Path) -> Path:
        for split, images in (("train", self.train), ("test", self.test)):
            for i, (pixels, label) in enumerate(
                zip(images.images_nhwc, images.labels_n.tolist(), strict=True)
            ):
                place = folder / split / self.source.class_names[label]
                place.mkdir(parents=True, exist_ok=True)
                # Names that sort in another order than the archive's.
                Image.fromarray(pixels.numpy()).save(place / f"{997 * i % 1000:03d}.png")
        return folder


def random_images(count: int, *, seed: int, classes: int = 10) -> ImageSet:
    """Return noise with the classes in turn."""
    draws = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 32, 32, 3), dtype=torch.uint8, generator=draws)
    return ImageSet(pixels, torch.arange(count) % classes)


def _member(images: ImageSet, span: slice, labels_key: str) -> bytes:
    rows = images.images_nhwc[span].permute(0, 3, 1, 2).flatten(1).contiguous().numpy()
    return python2_pickle(rows, images.labels_n[span].tolist(), labels_key)


def make_tiny_cifar() -> TinyCifar:
    """Return the tiny data set, its batches split as the official archive splits them."""
    train, test = random_images(TINY_TRAIN, seed=1), random_images(TINY_TEST, seed=2)
    original = cifar.SOURCES["cifar10"]
    share = TINY_TRAIN // len(original.train_members)
    members = {
        name: _member(train, slice(i * share, (i + 1) * share), original.labels_key)
        for i, name in enumerate(original.train_members)
    }
    members[original.test_members[0]] = _member(test, slice(None), original.labels_key)
    archive = tar_of({"cifar-10-batches-py/readme.html": b"hello", **members})
    return TinyCifar(train, test, members, archive, source_for(original, archive))


def source_for(original: Source, archive: bytes) -> Source:
    """Return a card that expects this archive, and no network."""
    file = dataclasses.replace(
        original.file,
        size_bytes=len(archive),
        md5=hashlib.md5(archive).hexdigest(),
        official_url="http://127.0.0.1:9",  # nothing listens there
    )
    return dataclasses.replace(
        original, file=file, train_count=TINY_TRAIN, test_count=TINY_TEST, fingerprint=None
    )
