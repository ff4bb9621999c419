"""CIFAR from a folder of image files; with $BENCH_TEST_CIFAR10 also the real one."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_cifar import TinyCifar

from bench.data import cifar
from bench.data.cache import DataWarning
from bench.data.cifar import import_folder
from bench.data.load import load_dataset
from bench.errors import DataError, UnknownNameError


@pytest.fixture
def folder(cifar10: TinyCifar, tmp_path: Path) -> Path:
    return cifar10.put_folder(tmp_path / "png")


def test_an_imported_folder_loads_like_the_archive_image_for_image(
    cifar10: TinyCifar, folder: Path, tmp_path: Path
) -> None:
    cifar10.put_archive(tmp_path / "a")
    from_archive = load_dataset("cifar10", data_dir=tmp_path / "a", network="forbidden")
    import_folder("cifar10", folder, data_dir=tmp_path / "b")
    imported = load_dataset("cifar10", data_dir=tmp_path / "b", network="forbidden")
    assert imported.info == from_archive.info
    assert torch.equal(imported.train.images_nhwc, from_archive.train.images_nhwc)
    assert torch.equal(imported.test.labels_n, from_archive.test.labels_n)


def test_other_classes_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (folder / split / "truck").rename(folder / split / "lorry")
    with pytest.raises(DataError, match="missing truck; unknown lorry"):
        import_folder("cifar10", folder, data_dir=tmp_path / "data")


def test_a_wrong_number_of_images_is_told_with_the_counts_found(
    folder: Path, tmp_path: Path
) -> None:
    next((folder / "train" / "cat").iterdir()).unlink()
    with pytest.raises(DataError, match=r"39 images, expected 40, 4 per class; found cat 3"):
        import_folder("cifar10", folder, data_dir=tmp_path / "data")


def test_images_of_another_size_are_refused(folder: Path, tmp_path: Path) -> None:
    path = next((folder / "test" / "dog").iterdir())
    with Image.new("RGB", (64, 64)) as image:
        image.save(path)
    with pytest.raises(DataError, match=r"64x64 .* expected 32x32"):
        import_folder("cifar10", folder, data_dir=tmp_path / "data")


def test_a_set_of_grey_images_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            grey = image.convert("L")
        grey.save(path)
    with pytest.raises(DataError, match="expected RGB"):
        import_folder("cifar10", folder, data_dir=tmp_path / "data")


def test_pixels_that_are_not_the_official_ones_are_imported_with_a_warning(
    cifar10: TinyCifar, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = import_folder("cifar10", folder, data_dir=tmp_path / "a").info.fingerprint
    source = dataclasses.replace(cifar.SOURCES["cifar10"], fingerprint=official)
    monkeypatch.setitem(cifar.SOURCES, "cifar10", source)
    assert import_folder("cifar10", folder, data_dir=tmp_path / "b").info.fingerprint == official
    path = next((folder / "train" / "ship").iterdir())
    shutil.copy(next((folder / "test" / "ship").iterdir()), path)
    with pytest.warns(DataWarning, match=f"official {official}"):
        import_folder("cifar10", folder, data_dir=tmp_path / "c")


def test_only_the_cifars_can_be_imported(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="digits"):
        import_folder("digits", folder, data_dir=tmp_path)


@pytest.mark.skipif(
    "BENCH_TEST_CIFAR10" not in os.environ,
    reason="BENCH_TEST_CIFAR10 does not name a folder with CIFAR-10's train/ and test/",
)
def test_the_real_cifar10_has_the_published_statistics(tmp_path: Path) -> None:
    real = Path(os.environ["BENCH_TEST_CIFAR10"])
    dataset = import_folder("cifar10", real, data_dir=tmp_path)
    pixels = dataset.train.images_nhwc
    sums = [int(pixels[..., channel].sum(dtype=torch.int64)) for channel in range(3)]
    published = (125.306918046875, 122.950394140625, 113.86538318359375)
    assert [total / (50_000 * 32 * 32) for total in sums] == list(published)
    assert dataset.test.labels_n.bincount().tolist() == [1000] * 10
    again = load_dataset("cifar10", data_dir=tmp_path, network="forbidden")
    assert torch.equal(again.train.images_nhwc, pixels)
