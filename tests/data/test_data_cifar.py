"""CIFAR from the official archive, read without trust and decoded once, and from image files."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import shutil
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_cifar import ARCHIVE, FOLDER, TinyCifar, tar_of
from torchvision.datasets import CIFAR10

from bench.data import cifar
from bench.data.cache import FILE_NAME, DataWarning
from bench.data.cifar import Network, import_folder, load_cifar
from bench.data.images import ImageSet, fingerprint
from bench.data.load import load_dataset
from bench.errors import DataError, UnknownNameError

# torchvision unpacks without a filter, after the archive's md5.
pytestmark = pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")


def _load(data_dir: Path) -> Any:
    return load_cifar("cifar10", data_dir=data_dir, network="forbidden")


def _fetch(data_dir: Path) -> Any:
    return load_cifar("cifar10", data_dir=data_dir, network="allowed")


def _pixels(images: ImageSet) -> set[tuple[int, bytes]]:
    return {
        (label, row.numpy().tobytes())
        for label, row in zip(images.labels_n.tolist(), images.images_nhwc, strict=True)
    }


def test_the_archive_gives_every_image_with_its_label(cifar10: TinyCifar, tmp_path: Path) -> None:
    cifar10.put_archive(tmp_path)
    dataset = _fetch(tmp_path)
    assert _pixels(dataset.train) == _pixels(cifar10.train)
    assert _pixels(dataset.test) == _pixels(cifar10.test)
    assert dataset.info.fingerprint == fingerprint(cifar10.train, cifar10.test)
    assert dataset.info.class_names[3] == "cat"
    assert (dataset.info.pad, dataset.info.flip, dataset.info.synthetic) == (4, True, False)


def test_after_the_first_use_the_archive_is_not_needed(cifar10: TinyCifar, tmp_path: Path) -> None:
    archive = cifar10.put_archive(tmp_path)
    first = _fetch(tmp_path)
    archive.unlink()
    shutil.rmtree(tmp_path / FOLDER)
    again = _load(tmp_path)
    assert again.info == first.info
    assert torch.equal(again.train.images_nhwc, first.train.images_nhwc)


def test_a_damaged_decoded_copy_is_made_anew(cifar10: TinyCifar, tmp_path: Path) -> None:
    cifar10.put_archive(tmp_path)
    first = _fetch(tmp_path)
    decoded = tmp_path / "cifar10" / FILE_NAME
    decoded.write_bytes(decoded.read_bytes()[:-100])
    with pytest.warns(DataWarning, match="set aside"):
        again = _load(tmp_path)
    assert torch.equal(again.test.images_nhwc, first.test.images_nhwc)
    assert {path.name for path in decoded.parent.iterdir()} == {
        decoded.name,
        f"{decoded.name}.broken",
    }


def test_what_is_not_there_comes_with_the_ways_to_it(cifar10: TinyCifar, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with pytest.raises(DataError) as caught:
        _load(data_dir)
    for part in (ARCHIVE, CIFAR10.tgz_md5, "bench data fetch cifar10", "bench data import cifar10"):
        assert part in str(caught.value)
    assert not data_dir.exists()


def _unpack(members: Mapping[str, bytes], folder: Path) -> None:
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_an_archive_that_others_have_unpacked_is_enough(cifar10: TinyCifar, tmp_path: Path) -> None:
    _unpack(cifar10.members, tmp_path / "unpacked")
    cifar10.put_archive(tmp_path / "packed")
    assert _load(tmp_path / "unpacked").info == _fetch(tmp_path / "packed").info


def test_an_unreachable_network_says_so(cifar10: TinyCifar, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"refused[\s\S]*bench data import cifar10"):
        _fetch(tmp_path)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder whose files the official host gives."""
    folder = tmp_path / "server"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as host:
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{host.server_port}/{ARCHIVE}")
        thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder
        host.shutdown()
        thread.join()


def test_the_archive_is_fetched_also_in_place_of_a_truncated_one(
    cifar10: TinyCifar, tmp_path: Path, server: Path
) -> None:
    cifar10.put_archive(server)
    cifar10.put_archive(tmp_path / "data", cifar10.archive[:-50])
    assert len(_fetch(tmp_path / "data").train) == len(cifar10.train)


def test_another_file_than_the_official_one_is_refused(
    cifar10: TinyCifar, tmp_path: Path, server: Path
) -> None:
    cifar10.put_archive(server, b"sorry")
    with pytest.raises(DataError, match="corrupted"):
        _fetch(tmp_path / "data")


class _Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("owned",))


@pytest.mark.parametrize("network", ["allowed", "forbidden"])
@pytest.mark.parametrize("packed", ["packed", "unpacked"])
def test_a_file_that_is_not_the_official_one_is_refused_and_never_unpickled(
    cifar10: TinyCifar,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    network: Network,
    packed: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    evil = pickle.dumps({"data": _Exploit(), "labels": []})
    members = cifar10.members | {f"{FOLDER}/test_batch": evil}
    archive = tar_of(members)
    if packed == "packed":  # the archive is the expected one; what is in it is not
        monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive).hexdigest())
        cifar10.put_archive(tmp_path, archive)
    else:
        _unpack(members, tmp_path)
    with pytest.raises(DataError, match="official files of CIFAR-10"):
        load_cifar("cifar10", data_dir=tmp_path, network=network)
    assert not (tmp_path / "owned").exists()


@pytest.fixture
def folder(cifar10: TinyCifar, tmp_path: Path) -> Path:
    return cifar10.put_folder(tmp_path / "png")


def test_an_imported_folder_loads_like_the_archive_image_for_image(
    cifar10: TinyCifar, folder: Path, tmp_path: Path
) -> None:
    cifar10.put_archive(tmp_path / "a")
    from_archive = load_dataset("cifar10", data_dir=tmp_path / "a")
    import_folder("cifar10", folder, data_dir=tmp_path / "b")
    imported = load_dataset("cifar10", data_dir=tmp_path / "b", network="forbidden")
    assert imported.info == from_archive.info
    assert torch.equal(imported.train.images_nhwc, from_archive.train.images_nhwc)
    assert torch.equal(imported.test.labels_n, from_archive.test.labels_n)


@pytest.mark.parametrize(("name", "count"), [("cifar10", 10), ("cifar100", 100)])
def test_class_names_are_complete_and_in_the_official_order(name: str, count: int) -> None:
    class_names = cifar.SOURCES[name].class_names
    assert len(set(class_names)) == count
    assert list(class_names) == sorted(class_names)


def test_another_number_of_images_of_a_class_is_refused(folder: Path, tmp_path: Path) -> None:
    next((folder / "train" / "cat").iterdir()).unlink()
    with pytest.raises(DataError, match="must have 4 images of each class; found cat 3"):
        import_folder("cifar10", folder, data_dir=tmp_path / "data")


def test_other_classes_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (folder / split / "truck").rename(folder / split / "lorry")
    with pytest.raises(DataError, match="only one of them has lorry, truck"):
        import_folder("cifar10", folder, data_dir=tmp_path / "data")


def test_images_of_another_size_are_refused(folder: Path, tmp_path: Path) -> None:
    files = list((folder / "test").rglob("*.png"))
    for expected, some in (("different sizes, 32x32, 64x64", files[:1]), ("are 64x64", files)):
        for path in some:
            with Image.new("RGB", (64, 64)) as image:
                image.save(path)
        with pytest.raises(DataError, match=expected):
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
