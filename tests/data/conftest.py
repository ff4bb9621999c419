"""Fixtures of the data room: a tiny CIFAR-10 in the official format, and a small data set."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tiny_cifar import TinyCifar, checksums, make_tiny_cifar, random_images, source_for
from torchvision.datasets import CIFAR10

from bench.data import cifar
from bench.data.cifar import CifarArchive
from bench.data.images import Dataset, DatasetInfo


@pytest.fixture(scope="session")
def tiny() -> TinyCifar:
    return make_tiny_cifar()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tiny: TinyCifar) -> Callable[[bytes], CifarArchive]:
    """Return a function that makes `cifar10` mean another archive."""
    monkeypatch.delenv("BENCH_DATA_MIRROR", raising=False)
    for name, value in checksums(tiny.members).items():
        monkeypatch.setattr(CIFAR10, name, value)

    def make(archive: bytes) -> CifarArchive:
        source = source_for(tiny.source, archive)
        monkeypatch.setitem(cifar.SOURCES, "cifar10", source)
        return source

    return make


@pytest.fixture
def cifar10(install: Callable[[bytes], CifarArchive], tiny: TinyCifar) -> TinyCifar:
    """Make `cifar10` mean the tiny one."""
    install(tiny.archive)
    return tiny


@pytest.fixture
def small_dataset() -> Dataset:
    train, test = random_images(12, seed=3, classes=3), random_images(6, seed=4, classes=3)
    info = DatasetInfo(
        name="small",
        title="A small one",
        class_names=("a", "b", "ç"),
        channels=3,
        height=32,
        width=32,
        mean=(0.5, 0.5, 0.25),
        std=(0.2, 0.2, 0.2),
        pad=4,
        flip=True,
        synthetic=True,
        fingerprint="0123456789abcdef",
    )
    return Dataset(info, train, test)
