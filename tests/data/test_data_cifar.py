"""CIFAR from the official archive, read without trust and decoded once, and from image files."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_cifar import TinyCifar, tar_of
from torchvision import datasets

from bench.data import cifar
from bench.data.cache import DataWarning
from bench.data.cifar import SOURCES, cache_path, import_folder, load_cifar
from bench.data.images import ImageSet, fingerprint
from bench.data.load import load_dataset, verify
from bench.errors import DataError, UnknownNameError

Install = Callable[[bytes], Any]


def _load(data_dir: Path) -> Any:
    return load_cifar("cifar10", data_dir=data_dir, network="forbidden")


def _pixels(images: ImageSet) -> set[tuple[int, bytes]]:
    return {
        (label, row.numpy().tobytes())
        for label, row in zip(images.labels_n.tolist(), images.images_nhwc, strict=True)
    }


def test_the_archive_gives_every_image_with_its_label(cifar10: TinyCifar, tmp_path: Path) -> None:
    cifar10.put_archive(tmp_path)
    dataset = _load(tmp_path)
    assert _pixels(dataset.train) == _pixels(cifar10.train)
    assert _pixels(dataset.test) == _pixels(cifar10.test)
    assert dataset.info.fingerprint == fingerprint(cifar10.train, cifar10.test)
    assert dataset.info.class_names[3] == "cat"
    assert (dataset.info.pad, dataset.info.flip, dataset.info.synthetic) == (4, True, False)


def test_after_the_first_use_the_archive_is_not_needed(cifar10: TinyCifar, tmp_path: Path) -> None:
    archive = cifar10.put_archive(tmp_path)
    first = _load(tmp_path)
    archive.unlink()
    again = _load(tmp_path)
    assert again.info == first.info
    assert torch.equal(again.train.images_nhwc, first.train.images_nhwc)


def test_a_damaged_decoded_copy_is_made_anew_from_the_archive(
    cifar10: TinyCifar, tmp_path: Path
) -> None:
    cifar10.put_archive(tmp_path)
    first = _load(tmp_path)
    decoded = cache_path("cifar10", data_dir=tmp_path)
    decoded.write_bytes(decoded.read_bytes()[:-100])
    with pytest.warns(DataWarning, match="set aside"):
        again = _load(tmp_path)
    assert torch.equal(again.test.images_nhwc, first.test.images_nhwc)
    assert {path.name for path in decoded.parent.iterdir()} == {
        decoded.name,
        f"{decoded.name}.broken",
    }


def test_without_any_source_the_error_says_what_to_put_where(
    cifar10: TinyCifar, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        _load(tmp_path)
    file, text = cifar10.source.file, str(caught.value)
    for part in (file.name, f"{file.size_bytes:,} bytes", file.md5, str(tmp_path.resolve())):
        assert part in text
    assert "the network must not be used" in text
    assert "BENCH_DATA_MIRROR" in text
    assert "bench data import cifar10" in text


def _unpack(members: Mapping[str, bytes], folder: Path) -> None:
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_an_archive_that_others_have_unpacked_is_enough(cifar10: TinyCifar, tmp_path: Path) -> None:
    _unpack(cifar10.members, tmp_path / "unpacked")
    (report,) = verify("cifar10", data_dir=tmp_path / "unpacked")
    assert report.status == "ok"
    cifar10.put_archive(tmp_path / "packed")
    assert _load(tmp_path / "unpacked").info == _load(tmp_path / "packed").info


def test_an_unreachable_network_says_the_same_and_why(cifar10: TinyCifar, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"refused[\s\S]*bench data import cifar10"):
        load_cifar("cifar10", data_dir=tmp_path, network="allowed")


def test_a_mirror_of_files_is_enough(
    cifar10: TinyCifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar10.put_archive(tmp_path / "mirror")
    monkeypatch.setenv("BENCH_DATA_MIRROR", (tmp_path / "mirror").as_uri())
    dataset = load_cifar("cifar10", data_dir=tmp_path / "data", network="allowed")
    assert len(dataset.train) == len(cifar10.train)


def test_a_truncated_archive_is_refused_and_kept(cifar10: TinyCifar, tmp_path: Path) -> None:
    archive = cifar10.put_archive(tmp_path, cifar10.archive[:-50])
    with pytest.raises(DataError) as caught:
        _load(tmp_path)
    text, size_bytes = str(caught.value), len(cifar10.archive)
    assert f"{size_bytes - 50:,} bytes" in text
    assert f"expected {size_bytes:,} bytes" in text
    assert cifar10.source.file.md5 in text
    assert "bench data fetch cifar10" in text
    assert archive.exists()


class _Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("owned",))


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("packed", ["packed", "unpacked"])
def test_a_file_that_is_not_the_official_one_is_refused_and_never_unpickled(
    tiny: TinyCifar,
    install: Install,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    protocol: int,
    packed: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    evil = pickle.dumps({"data": _Exploit(), "labels": []}, protocol=protocol)
    members = tiny.members | {f"{tiny.source.folder}/test_batch": evil}
    archive = tar_of(members)
    install(archive)  # the archive is the expected one; what is in it is not
    if packed == "packed":
        tiny.put_archive(tmp_path, archive)
    else:
        _unpack(members, tmp_path)
    with pytest.raises(DataError, match="does not hold the official cifar10"):
        _load(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_the_archives_are_those_that_torchvision_accepts() -> None:
    for name, theirs in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        ours = SOURCES[name]
        assert ours.file.md5 == theirs.tgz_md5
        assert f"{ours.file.official_url}/{ours.file.name}" == theirs.url
        assert ours.folder == theirs.base_folder


@pytest.mark.parametrize(("name", "count"), [("cifar10", 10), ("cifar100", 100)])
def test_class_names_are_complete_and_in_the_official_order(name: str, count: int) -> None:
    class_names = SOURCES[name].class_names
    assert len(set(class_names)) == count
    assert list(class_names) == sorted(class_names)


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
