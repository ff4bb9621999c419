"""Folders of images as data sets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from bench.data.cache import DataWarning
from bench.data.images import Dataset
from bench.data.load import load_dataset
from bench.errors import DataError, UnknownNameError


def _image(path: Path, colour: tuple[int, int, int], *, mode: str = "RGB", side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.new("RGB", (side, side), colour) as image:
        image.convert(mode).save(path)


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """Two classes, told by their colour, in formats of several kinds."""
    folder = tmp_path / "flowers"
    for split, count in (("train", 3), ("test", 2)):
        for i in range(count):
            _image(folder / split / "rose" / f"{i}.png", (200 + i, 0, 0))
            _image(folder / split / "iris" / f"{i}.bmp", (0, 0, 100 + i))
    return folder


def _load(folder: Path) -> Dataset:
    return load_dataset(str(folder), data_dir=folder.parent / "data")


def test_a_folder_is_a_data_set_with_its_classes_in_alphabetic_order(flowers: Path) -> None:
    dataset = _load(flowers)
    assert dataset.info.class_names == ("iris", "rose")
    assert (dataset.info.height, dataset.info.width, dataset.info.channels) == (8, 8, 3)
    assert (dataset.info.name, dataset.info.pad, dataset.info.flip) == ("folder-flowers", 1, True)
    assert (len(dataset.train), len(dataset.test)) == (6, 4)
    for images in (dataset.train, dataset.test):
        is_red_n = images.images_nhwc[:, 0, 0, 0] >= 200
        assert torch.equal(is_red_n, images.labels_n == 1)


def test_names_of_the_files_do_not_change_the_fingerprint(flowers: Path) -> None:
    before = _load(flowers)
    (flowers / "train" / "rose" / "0.png").rename(flowers / "train" / "rose" / "zebra.png")
    after = _load(flowers)
    assert before.info.fingerprint == after.info.fingerprint
    assert torch.equal(before.train.images_nhwc, after.train.images_nhwc)


def test_an_unchanged_folder_is_decoded_once_and_a_changed_one_again(
    flowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _load(flowers)
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", None)
        again = _load(flowers)
    assert again.info == first.info
    recoloured = flowers / "train" / "iris" / "0.bmp"
    before = recoloured.stat()
    _image(recoloured, (255, 255, 255))
    os.utime(recoloured, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    assert recoloured.stat().st_size == before.st_size
    changed = _load(flowers)
    assert changed.info.fingerprint != first.info.fingerprint


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_images_have_one_channel(tmp_path: Path, mode: str) -> None:
    for split in ("train", "test"):
        _image(tmp_path / "scans" / split / "black" / "a.png", (0, 0, 0), mode=mode)
        _image(tmp_path / "scans" / split / "white" / "a.png", (255, 255, 255), mode=mode)
    dataset = _load(tmp_path / "scans")
    assert dataset.info.channels == 1
    assert len(dataset.info.mean) == 1
    assert dataset.train.images_nhwc.shape == (2, 8, 8, 1)
    assert torch.equal(dataset.train.images_nhwc[:, 0, 0, 0] == 255, dataset.train.labels_n == 1)


@pytest.mark.parametrize("grey_class", ["iris", "rose"])
def test_grey_images_among_coloured_ones_get_three_channels(flowers: Path, grey_class: str) -> None:
    for path in flowers.glob(f"*/{grey_class}/*"):
        _image(path, (9, 9, 9), mode="L")
    dataset = _load(flowers)
    assert dataset.train.images_nhwc.shape == (6, 8, 8, 3)
    assert dataset.test.images_nhwc.shape == (4, 8, 8, 3)


def test_hidden_files_are_passed_over(flowers: Path) -> None:
    (flowers / ".git").mkdir()
    (flowers / "train" / ".hidden").mkdir()
    (flowers / "train" / "rose" / "._0.png").write_bytes(b"left by another system")
    assert len(_load(flowers).train) == 6


def test_images_in_subfolders_are_read(flowers: Path) -> None:
    before = _load(flowers)
    rose = flowers / "train" / "rose"
    (rose / "red" / "dark").mkdir(parents=True)
    (rose / "1.png").rename(rose / "red" / "1.PNG")
    (rose / "2.png").rename(rose / "red" / "dark" / "2.png")
    after = _load(flowers)
    assert after.info.fingerprint == before.info.fingerprint


def test_what_is_left_out_is_counted_and_named(flowers: Path) -> None:
    rose = flowers / "test" / "rose"
    (rose / "notes.txt").write_text("not an image")
    (rose / "2.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (rose / "more").symlink_to(flowers / "train" / "rose")
    (flowers / "train" / "list.csv").write_text("")
    os.mkfifo(rose / "pipe")
    with pytest.warns(DataWarning, match=r"5 \(train.list\.csv, test.rose.2\.heic, .*more"):
        dataset = _load(flowers)
    assert len(dataset.test) == 4


@pytest.mark.parametrize("kept_bytes", [0, 45])
def test_an_image_that_cannot_be_read_is_named(flowers: Path, kept_bytes: int) -> None:
    broken = flowers / "train" / "rose" / "1.png"
    broken.write_bytes(broken.read_bytes()[:kept_bytes])
    with pytest.raises(DataError, match=r"Cannot read the image .*rose.1\.png"):
        _load(flowers)


def test_images_of_more_than_eight_bits_are_refused(flowers: Path) -> None:
    with Image.new("I;16", (8, 8), 40000) as image:
        image.save(flowers / "train" / "rose" / "1.png")
    with pytest.raises(DataError, match="8 bits per channel"):
        _load(flowers)


def test_classes_must_be_the_same_in_both_splits(flowers: Path) -> None:
    os.rename(flowers / "test" / "iris", flowers / "test" / "lily")
    with pytest.raises(DataError, match="iris, lily"):
        _load(flowers)


def test_an_empty_class_is_named(flowers: Path) -> None:
    (flowers / "train" / "tulip").mkdir()
    with pytest.raises(DataError, match=r"no images in .*tulip"):
        _load(flowers)


def test_a_folder_without_classes_or_without_splits_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no folder .*train[\s\S]*one folder of images"):
        _load(tmp_path / "nowhere")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"neither test/ nor val/[\s\S]*one folder of images"):
        _load(tmp_path / "empty")
    (tmp_path / "empty" / "val").mkdir()
    for split in ("train", "test"):
        _image(tmp_path / "one" / split / "lily" / "0.png", (9, 9, 9))
    with pytest.raises(DataError, match="only the class lily;"):
        _load(tmp_path / "one")
    with pytest.raises(DataError, match="no class folders"):
        _load(tmp_path / "empty")


def test_two_folders_of_the_same_name_have_a_decoded_copy_each(
    flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other" / "flowers"
    for split in ("train", "test"):
        _image(other / split / "lily" / "0.png", (255, 255, 255))
        _image(other / split / "moss" / "0.png", (0, 99, 0))
    _load(flowers)
    load_dataset(str(other), data_dir=flowers.parent / "data")
    monkeypatch.setattr(Image, "open", None)
    assert load_dataset(str(other), data_dir=flowers.parent / "data").info.class_names == (
        "lily",
        "moss",
    )
    assert _load(flowers).info.num_classes == 2


def test_a_name_that_is_neither_known_nor_a_path_gets_the_nearest_known_name(
    tmp_path: Path,
) -> None:
    with pytest.raises(UnknownNameError, match="'cifar10'"):
        load_dataset("cifar-10", data_dir=tmp_path)


def test_a_folder_in_the_working_directory_needs_no_slash(
    flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(flowers.parent)
    assert load_dataset("flowers", data_dir=tmp_path / "data").info.num_classes == 2
