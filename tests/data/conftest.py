"""Fixtures of the data room: a tiny CIFAR-10 in the official format, and a small data set."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_cifar import (
    TINY_TEST,
    TINY_TRAIN,
    TinyCifar,
    checksums,
    make_tiny_cifar,
    random_images,
)
from torchvision.datasets import CIFAR10

from bench.data import cifar
from bench.data.images import Dataset, DatasetInfo


@pytest.fixture(scope="session")
def tiny() -> TinyCifar:
    return make_tiny_cifar()


@pytest.fixture
def cifar10(monkeypatch: pytest.MonkeyPatch, tiny: TinyCifar) -> TinyCifar:
    """Make `cifar10` mean the tiny one."""
    for name, value in checksums(tiny.members, tiny.archive).items():
        monkeypatch.setattr(CIFAR10, name, value)
    small = replace(
        cifar.SOURCES["cifar10"], fingerprint=None, train_count=TINY_TRAIN, test_count=TINY_TEST
    )
    monkeypatch.setitem(cifar.SOURCES, "cifar10", small)
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
