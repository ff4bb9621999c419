"""Archives and pickles of strangers: nothing is extracted, nothing is run, nothing is endless."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bench.data import archive as room
from bench.data.archive import read_members, read_split, unpickle
from bench.data.download import RemoteFile, download
from bench.errors import DataError

pytestmark = pytest.mark.reliability

WANTED = "cifar-10-batches-py/data_batch_1"
BATCH = {b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1, 2]}


def member(name: str, *, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def packed(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.DIRTYPE,
    ],
)
def test_links_devices_and_pipes_are_no_members(kind: bytes, tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar.gz", [(member(WANTED, kind=kind, target="/etc/passwd"), b"")])
    with pytest.raises(DataError, match="has no cifar"):
        read_members(path, {WANTED})


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil-of-skipbench", "a/../../evil", "./" + WANTED]
)
def test_what_has_another_name_is_passed_over_and_nothing_is_extracted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    path = packed(tmp_path / "a.tar.gz", [(member(name), b"evil"), (member(WANTED), b"good")])
    assert read_members(path, {WANTED}) == {WANTED: b"good"}
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar.gz", "inside"]
    assert not Path("/tmp/evil-of-skipbench").exists()


def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tar.gz", [(member(WANTED), b"one"), (member(WANTED), b"two")])
    with pytest.raises(DataError, match="twice"):
        read_members(path, {WANTED})


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = b"\0" * (1 << 20)
    monkeypatch.setattr(room, "LARGEST_MEMBER_BYTES", len(zeros) // 2)
    path = packed(tmp_path / "a.tar.gz", [(member(WANTED), zeros)])
    with pytest.raises(DataError, match="unpacks to"):
        read_members(path, {WANTED})
    monkeypatch.setattr(room, "LARGEST_MEMBER_BYTES", len(zeros))
    monkeypatch.setattr(room, "LARGEST_ARCHIVE_BYTES", 3 * len(zeros))
    path = packed(tmp_path / "b.tar.gz", [(member(str(n)), zeros) for n in range(4)])
    with pytest.raises(DataError, match="unpacks to"):
        read_members(path, {WANTED})


def test_a_header_that_lies_about_the_size_is_refused(tmp_path: Path) -> None:
    info = member(WANTED)
    for size in (2**40, 2**62, 100):
        info.size = size
        path = tmp_path / "a.tar.gz"
        path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + b"short"))
        with pytest.raises(DataError):
            read_members(path, {WANTED})


GOOD_TAR = io.BytesIO()
with tarfile.open(fileobj=GOOD_TAR, mode="w") as _tar:
    _info = member(WANTED)
    _info.size = 600
    _tar.addfile(_info, io.BytesIO(b"x" * 600))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 1100), st.binary(min_size=1, max_size=6)), max_size=4
    ),
    cut=st.integers(0, 2048),
    raw=st.booleans(),
)
def test_a_damaged_archive_is_read_or_refused(
    changes: list[tuple[int, bytes]], cut: int, raw: bool, tmp_path: Path
) -> None:
    data = bytearray(GOOD_TAR.getvalue())
    for place, new in changes:
        data[place : place + len(new)] = new
    content = bytes(data[:cut]) if cut % 2 else bytes(data)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content if raw else gzip.compress(content, 1))
    try:
        assert set(read_members(path, {WANTED})) == {WANTED}
    except DataError as error:
        assert len(str(error)) < 1500


class Code:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_pickle_is_never_run(protocol: int, tmp_path: Path) -> None:
    target = tmp_path / "made by the pickle"
    for value in (Code(target), {b"data": Code(target)}, [Code(target)], (1, {2: Code(target)})):
        with pytest.raises(DataError, match="not plain data"):
            unpickle(pickle.dumps(value, protocol))
    assert not target.exists()


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "builtins.eval", "builtins.getattr", "numpy.load", "numpy.fromfile"),
        *("numpy.core.multiarray.scalar", "numpy.core.multiarray._reconstruct.__globals__"),
        *(
            "numpy.ndarray.tofile",
            "numpy.ndarray.__init__",
            "numpy.dtype.__reduce__",
            "numpy.memmap",
        ),
    ],
)
def test_the_reader_knows_three_names(name: str, tmp_path: Path) -> None:
    module, _, attribute = name.rpartition(".")
    for content in (
        f"c{module}\n{attribute}\n(tR.".encode(),
        b"\x80\x04\x8c"
        + bytes([len(module)])
        + module.encode()
        + b"\x8c"
        + bytes([len(attribute)])
        + attribute.encode()
        + b"\x93)R.",
    ):
        with pytest.raises(DataError, match="not plain data"):
            unpickle(content)


@settings(max_examples=400, deadline=None)
@given(content=st.binary(max_size=200))
@example(content=b"(" * 10_000)
@example(content=b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b".")
@example(content=b"\x80\x04\x95" + b"\xff" * 8)
@example(content=b"\x80\x02\x8b" + b"\xff\xff\xff\x7f" + b"1.")
@example(content=b"cnumpy\nndarray\n(I100000000000000000\ntR.")
@example(content=b"cnumpy\ndtype\n(S'O'\ntR.")
def test_any_bytes_are_plain_data_or_refused(content: bytes) -> None:
    try:
        value = unpickle(content)
        read_split({"x": content}, ["x"], labels_key="labels", num_classes=10)
    except DataError as error:
        assert len(str(error)) < 1500
    else:
        assert isinstance(value, dict)


@pytest.mark.parametrize(
    "change",
    [
        *({"data": np.zeros((3, 3072), dt)} for dt in ("int64", "float64", "bool")),
        *(
            {"data": np.zeros(shape, np.uint8)}
            for shape in ((3, 3071), (3072,), (3, 3072, 1), (2, 3072))
        ),
        *(
            {"labels": labels}
            for labels in ([0, 1], [0, 1, 10], [0, 1, -1], [0, 1, True], [0, 1, 2.0])
        ),
        *({"labels": value} for value in (None, "abc", (0, 1, 2), np.arange(3), [[0], [1], [2]])),
        *({"data": value} for value in (None, "abc", [[0] * 3072] * 3)),
    ],
)
def test_a_batch_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    fields = {"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1, 2], **change}
    with pytest.raises(DataError, match=r"does not hold rows|not plain data"):
        read_split({"x": pickle.dumps(fields, 2)}, ["x"], labels_key="labels", num_classes=10)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc",
        "ftp://[",
        "javascript:x",
        "http://[::1",
        "",
        "/etc",
        "http://a\nb",
        "http://\ud800",
        "data:,x",
    ],
)
def test_an_odd_mirror_is_refused_and_leaves_nothing(url: str, tmp_path: Path) -> None:
    wanted = RemoteFile("passwd", os.path.getsize("/etc/passwd"), "0" * 32, "http://[")
    with pytest.raises(DataError, match="Cannot download"):
        download(wanted, folder=tmp_path, bases=[url], hint="")
    assert list(tmp_path.iterdir()) == []
