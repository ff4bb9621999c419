"""Folders of images may hold anything: they are read, or refused in words."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.data.cache import DataWarning
from bench.data.cifar import import_folder
from bench.data.image_files import ImageFiles, in_one_array, list_splits
from bench.data.load import load_dataset
from bench.errors import BenchError, DataError

pytestmark = pytest.mark.reliability


def picture(
    mode: str = "RGB", size: tuple[int, int] = (6, 8), *, form: str = "PNG", **options: Any
) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


GOOD = picture()


def folder_of(root: Path, *, classes: tuple[str, ...] = ("a", "b"), images: int = 2) -> Path:
    for split in ("train", "test"):
        for name in classes:
            place = root / split / name
            place.mkdir(parents=True)
            for number in range(images):
                (place / f"{number}.png").write_bytes(GOOD)
    return root


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "images")


def refused(folder: Path, data_dir: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(str(folder), data_dir=data_dir)
    assert len(str(caught.value)) < 1500 and str(caught.value).replace("\n", "").isprintable()
    return str(caught.value)


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that claims to have many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 8\n(made) (w) file closefile\nshowpage\n%%EOF\n"
)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"hello", GOOD[:40], GOOD[:-60], bomb(8000, 8000), bomb(60_000, 60_000), EPS),
        *(b"%PDF-1.4", b"\xff\xd8\xff", picture("I;16"), picture("I", form="TIFF"), b"GIF89a\0\0"),
        b"<svg/>",
    ],
)
def test_what_is_no_image_is_refused(
    content: bytes, first: bool, images: Path, data_dir: Path
) -> None:
    (images / "train" / "a" / ("0.png" if first else "1.png")).write_bytes(content)
    refused(images, data_dir)
    assert not list(data_dir.rglob("*.safetensors"))


def test_postscript_is_not_handed_to_another_program(
    images: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", never)
    for suffix in (".eps", ".ps"):
        (images / "train" / "a" / f"x{suffix}").write_bytes(EPS)
    with pytest.warns(DataWarning, match="Left out"):
        assert len(load_dataset(str(images), data_dir=data_dir).train) == 4
    (images / "train" / "a" / "0.png").write_bytes(EPS)
    with pytest.warns(DataWarning, match="Left out"):
        assert "cannot identify image" in refused(images, data_dir)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    form=st.sampled_from(
        ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PCX", "SGI"]
    ),
    changes=st.lists(st.tuples(st.integers(0, 300), st.binary(min_size=1, max_size=4)), max_size=4),
    cut=st.integers(1, 400),
)
@example(form="PNG", changes=[], cut=1)
def test_a_damaged_image_is_read_or_refused(
    form: str, changes: list[tuple[int, bytes]], cut: int, tmp_path: Path
) -> None:
    data = bytearray(picture(form=form))
    for place, new in changes:
        data[place : place + len(new)] = new
    images = tmp_path / "images"
    if not images.exists():
        folder_of(images, classes=("a", "b"), images=1)
    (images / "train" / "a" / "0.png").write_bytes(bytes(data[:cut] if cut % 3 == 0 else data))
    train, _ = list_splits(images)
    try:
        images_nhwc, _ = in_one_array(ImageFiles(train.files, train.labels), title="x")
    except DataError as error:
        assert len(str(error)) < 2000
    else:
        assert len(images_nhwc) == 2 and images_nhwc.shape[3] == 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_kinds_of_pixels_of_eight_bits_are_read(mode: str, images: Path, data_dir: Path) -> None:
    form = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    content = picture("RGB" if mode == "HSV" else mode, form=form)
    for file in images.rglob("*.png"):
        file.write_bytes(content)
    data = load_dataset(str(images), data_dir=data_dir)
    assert data.info.channels == (1 if mode in ("1", "L") else 3)
    assert data.train.images_nhwc.shape == (4, 8, 6, data.info.channels)


def test_an_image_is_not_turned(images: Path, data_dir: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees when showing
    for file in images.rglob("*.png"):
        file.write_bytes(picture(form="JPEG", exif=exif))
    assert load_dataset(str(images), data_dir=data_dir).info.height == 8


@pytest.mark.parametrize(
    "make",
    [
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("/no/such/file"),
        lambda path: path.symlink_to(path),
    ],
)
def test_what_is_no_file_is_left_out(
    make: Callable[[Path], None], images: Path, data_dir: Path
) -> None:
    make(images / "train" / "a" / "0.jpg")
    with pytest.warns(DataWarning, match=r"0\.jpg"):
        assert len(load_dataset(str(images), data_dir=data_dir).train) == 4


def test_a_link_to_no_image_is_refused(images: Path, data_dir: Path) -> None:
    (images / "train" / "a" / "0.jpg").symlink_to("/etc/passwd")
    assert "cannot identify" in refused(images, data_dir)


def test_links_are_followed_to_images_and_never_in_circles(
    images: Path, data_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside.png").write_bytes(GOOD)
    (images / "train" / "a" / "2.png").symlink_to(tmp_path / "outside.png")
    (images / "train" / "a" / "loop").symlink_to(images / "train")
    (images / "train" / ".hidden").symlink_to(images)
    with pytest.warns(DataWarning, match="loop"):
        assert len(load_dataset(str(images), data_dir=data_dir).train) == 5


@pytest.mark.parametrize(
    "name",
    [
        *("[red]x", "a b", "é", "a\nb", "\x1b[2J", "\u202ex", "x" * 200, "-rf", "a'b\"c", "$(x)"),
        *("=1", "\udcff\udcfe"),
    ],
)
def test_folders_and_classes_may_have_any_name(name: str, tmp_path: Path, data_dir: Path) -> None:
    images = folder_of(tmp_path / name, classes=(name, "b"))
    data = load_dataset(str(images), data_dir=data_dir)
    assert data.info.name.isprintable() and data.info.num_classes == 2
    data.info.name.encode()
    assert load_dataset(str(images), data_dir=data_dir).info == data.info
    (place,) = data_dir.iterdir()
    assert len(place.name) < 80 and place.name.isascii() and place.name.isprintable()


def test_one_image_per_class_is_enough_but_not_one_class(tmp_path: Path, data_dir: Path) -> None:
    images = folder_of(tmp_path / "x", classes=("a", "b"), images=1)
    assert load_dataset(str(images), data_dir=data_dir).info.num_classes == 2
    with pytest.raises(DataError, match="only the class a;"):
        load_dataset(str(folder_of(tmp_path / "y", classes=("a",))), data_dir=data_dir)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.one_of(
        st.text(max_size=40),
        st.text(max_size=20).map(lambda t: f"/{t}"),
        st.sampled_from(
            [
                *("~nobody-here/x", "a\0b", "/" * 300, "x" * 5000, "/" + "x" * 5000, "/dev/zero"),
                *("/dev/null", "\ud800/x", ".", "", "..", "/", "~"),
            ]
        ),
    )
)
def test_any_name_of_a_data_set_is_answered(name: str, tmp_path: Path) -> None:
    try:
        load_dataset(name, data_dir=tmp_path / "data", network="forbidden")
    except BenchError as error:
        assert error.exit_status == 2
    try:
        import_folder(name, tmp_path, data_dir=tmp_path / "data")
    except BenchError as error:
        assert error.exit_status == 2
