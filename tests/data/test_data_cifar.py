"""CIFAR from the official archive: read without trust, decoded once, and found again."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_cifar import TinyCifar, python2_pickle, tar_of
from torchvision import datasets

from bench.data.archive import unpickle
from bench.data.cache import DataWarning
from bench.data.cifar import SOURCES, cache_path, load_cifar
from bench.data.identity import fingerprint
from bench.data.images import ImageSet
from bench.data.load import verify
from bench.errors import DataError, StorageError

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


def _unpack(tiny: TinyCifar, folder: Path) -> None:
    for name, content in tiny.members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_an_archive_that_others_have_unpacked_is_enough(cifar10: TinyCifar, tmp_path: Path) -> None:
    _unpack(cifar10, tmp_path / "unpacked")
    (report,) = verify("cifar10", data_dir=tmp_path / "unpacked")
    assert report.status == "ok"
    cifar10.put_archive(tmp_path / "packed")
    assert _load(tmp_path / "unpacked").info == _load(tmp_path / "packed").info


def test_an_unpacked_archive_with_other_images_is_refused(
    cifar10: TinyCifar, tmp_path: Path
) -> None:
    _unpack(cifar10, tmp_path)
    second = tmp_path / cifar10.source.train_members[1]
    second.write_bytes(cifar10.members[cifar10.source.test_members[0]])
    with pytest.raises(DataError, match="does not hold the official cifar10"):
        _load(tmp_path)
    second.unlink()
    with pytest.raises(DataError, match="the network must not be used"):
        _load(tmp_path)


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


def test_a_data_folder_that_is_a_file_is_a_storage_error(
    cifar10: TinyCifar, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="'digits' and 'synthetic' need no data folder"):
        load_cifar("cifar10", data_dir=tmp_path / "file" / "data", network="allowed")


class _Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("owned",))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_something_is_refused_and_not_run(
    tiny: TinyCifar,
    install: Install,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    protocol: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    evil = pickle.dumps({"data": _Exploit(), "labels": []}, protocol=protocol)
    archive = tar_of(tiny.members | {tiny.source.test_members[0]: evil})
    install(archive)
    tiny.put_archive(tmp_path, archive)
    with pytest.raises(DataError, match="mkdir"):
        _load(tmp_path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "name", ["builtins eval", "builtins getattr", "numpy load", "numpy.core.multiarray scalar"]
)
def test_no_name_but_those_of_arrays_can_be_reached(name: str) -> None:
    module, attribute = name.split()
    with pytest.raises(DataError, match=rf"asks for {module}\.{attribute}"):
        unpickle(f"c{module}\n{attribute}\n.".encode())


@pytest.mark.parametrize("content", [b"", b"\x80", b"not a pickle", b"\x80\x02}q\x00"])
def test_a_damaged_pickle_is_a_data_error(content: bytes) -> None:
    with pytest.raises(DataError, match="not plain data"):
        unpickle(content)


def test_members_that_point_outside_are_never_written(
    tiny: TinyCifar, install: Install, tmp_path: Path
) -> None:
    archive = tar_of(
        {"../../outside": b"x", "/tmp/absolute-outside-skipbench": b"x"} | tiny.members
    )
    install(archive)
    data_dir = tmp_path / "a" / "b"
    tiny.put_archive(data_dir, archive)
    _load(data_dir)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert written == {
        "a",
        "a/b",
        f"a/b/{tiny.source.file.name}",
        "a/b/cifar10",
        "a/b/cifar10/decoded-v1.safetensors",
    }


def test_a_link_in_place_of_a_batch_is_not_followed(
    tiny: TinyCifar, install: Install, tmp_path: Path
) -> None:
    buffer, linked = io.BytesIO(), tiny.source.test_members[0]
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in tiny.members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if name == linked:
                member.type, member.size, member.linkname = tarfile.SYMTYPE, 0, "/etc/hostname"
            tar.addfile(member, io.BytesIO(content))
    install(buffer.getvalue())
    tiny.put_archive(tmp_path, buffer.getvalue())
    with pytest.raises(DataError, match=f"has no {linked}"):
        _load(tmp_path)


@pytest.mark.parametrize(
    ("labels", "labels_key", "row_length"),
    [([0, 10], "labels", 3072), ([0], "labels", 3072), ([0, 1], "x", 3072), ([0, 1], "labels", 9)],
)
def test_a_batch_of_another_shape_is_refused(
    tiny: TinyCifar,
    install: Install,
    tmp_path: Path,
    labels: list[int],
    labels_key: str,
    row_length: int,
) -> None:
    rows = torch.zeros(2, row_length, dtype=torch.uint8).numpy()
    batch = python2_pickle(rows, labels, labels_key)
    archive = tar_of(tiny.members | {tiny.source.train_members[2]: batch})
    install(archive)
    tiny.put_archive(tmp_path, archive)
    with pytest.raises(DataError, match="one label per row"):
        _load(tmp_path)


def test_the_archives_are_those_that_torchvision_accepts() -> None:
    for name, theirs in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        ours = SOURCES[name]
        assert ours.file.md5 == theirs.tgz_md5
        assert f"{ours.file.official_url}/{ours.file.name}" == theirs.url
        members = [f"{theirs.base_folder}/{member}" for member, _ in theirs.train_list]
        assert list(ours.train_members) == members
        assert list(ours.test_members) == [f"{theirs.base_folder}/{theirs.test_list[0][0]}"]


@pytest.mark.parametrize(("name", "count"), [("cifar10", 10), ("cifar100", 100)])
def test_class_names_are_complete_and_in_the_official_order(name: str, count: int) -> None:
    class_names = SOURCES[name].class_names
    assert len(set(class_names)) == count
    assert list(class_names) == sorted(class_names)
