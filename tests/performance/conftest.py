"""Real images for the benchmarks: CIFAR-10 from $BENCH_TEST_CIFAR10, decoded once."""

import os
from pathlib import Path

import pytest

from bench.data.cifar import import_folder
from bench.data.images import Dataset
from bench.data.load import load_dataset


@pytest.fixture(scope="session")
def image_folder() -> Path:
    """The folder with train/ and test/ of CIFAR-10."""
    folder = os.environ.get("BENCH_TEST_CIFAR10")
    if not folder:
        pytest.skip("needs $BENCH_TEST_CIFAR10, a folder with train/ and test/ of CIFAR-10")
    return Path(folder)


@pytest.fixture(scope="session")
def data_dir(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that holds the decoded CIFAR-10."""
    folder = tmp_path_factory.mktemp("data")
    import_folder("cifar10", image_folder, data_dir=folder)
    return folder


@pytest.fixture(scope="session")
def cifar10(data_dir: Path) -> Dataset:
    return load_dataset("cifar10", data_dir=data_dir)
